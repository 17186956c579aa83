"""Batches of patches from prepared cases, without worker processes."""
