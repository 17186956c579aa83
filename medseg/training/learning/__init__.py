"""A learner and its steps: how a network learns from batches, on one device or several."""
