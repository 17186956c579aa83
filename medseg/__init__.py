"""medseg: from labelled scans to a trustworthy segmentation model. Importing it does nothing."""
