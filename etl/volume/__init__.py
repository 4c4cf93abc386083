"""The science: pure functions of arrays and plain values.

Arrays have the axes (z, y, x) = (slices, rows, columns); an index is (k, j, i). Patient space is DICOM's LPS in
mm: x grows to the patient's Left, y to Posterior, z to Superior (PS3.3 C.7.6.2.1.1).
"""
