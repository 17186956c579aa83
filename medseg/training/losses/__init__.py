"""The losses, and the sums over voxels that they are made of."""
