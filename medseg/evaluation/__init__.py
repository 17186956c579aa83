"""How good a segmentation is: overlap, surface distances, cohort statistics; `folders.evaluate_folders` is the door."""
