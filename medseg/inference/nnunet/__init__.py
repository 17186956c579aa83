"""Models that nnU-Net v2 trained, converted once into runs of medseg: plans, weights and what is known of them."""
