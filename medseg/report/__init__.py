"""Values in, something a person can read out."""
