"""Known truth: a synthetic head, written as real DICOM."""
