"""How far a prediction can be trusted: per structure by what held-out cases taught, per scan by what was seen."""
