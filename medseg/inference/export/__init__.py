"""A trained model to be handed on: one file of medseg's own, and the formats of other runtimes."""
