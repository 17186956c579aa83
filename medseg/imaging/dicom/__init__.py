"""DICOM: which files make which volume, and reading one."""
