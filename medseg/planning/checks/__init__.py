"""The check of a data set before any long work: a file for each kind of fault, and `check.py`, which asks them all."""
