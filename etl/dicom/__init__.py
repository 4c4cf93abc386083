"""What a DICOM file says: where it lies, its header, its pixels."""
