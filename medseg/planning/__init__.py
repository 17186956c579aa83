"""Looking at a data set and deciding: fingerprint, rules, the plan and its reasons."""
