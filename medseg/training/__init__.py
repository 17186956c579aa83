"""Patches, augmentation, losses, the loop, checkpoints."""
