"""Results written for others: DICOM segmentations, reports, structure sets and image series; NRRD and NIfTI."""
