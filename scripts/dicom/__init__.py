"""DICOM series as volumes, and results as DICOM objects."""
