"""A damaged mask file is refused by name, whatever the library for it raises."""

from __future__ import annotations

import numpy as np
import pytest

from etl.codes import LabelCode
from etl.labels.mask_file import read_mask_file
from etl.labels.source_mask import LabelError

nibabel = pytest.importorskip("nibabel", reason="ct-etl[labels] is not installed")
nrrd = pytest.importorskip("nrrd", reason="ct-etl[labels] is not installed")

NAMES = ["m.nii", "m.nii.gz", "m.nrrd"]
VALUES = np.random.default_rng(3).integers(0, 3, (12, 11, 10)).astype(np.uint8)


def written(path):
    if path.name == "m.nrrd":
        header = {"space": "lps", "space directions": np.eye(3), "space origin": [0, 0, 0]}
        nrrd.write(str(path), VALUES, header)
    else:
        nibabel.save(nibabel.Nifti1Image(VALUES, np.eye(4)), path)
    return path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_file_cut_off_anywhere_is_refused(tmp_path, name):
    whole = written(tmp_path / name)
    np.testing.assert_array_equal(read_mask_file(tmp_path / name).values, VALUES)
    for length in np.linspace(0, len(whole) * 0.95, 25).astype(int):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(LabelError) as refused:
            read_mask_file(tmp_path / name)
        assert refused.value.code == LabelCode.UNREADABLE_MASK


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_changed_raise_nothing_else(tmp_path, name):
    whole, random = written(tmp_path / name), np.random.default_rng(7)
    refused = []
    for _ in range(60):
        content = np.frombuffer(whole, np.uint8).copy()
        start = random.integers(0, len(content) - 20)
        content[start : start + 20] = random.integers(0, 256, 20)
        (tmp_path / name).write_bytes(content.tobytes())
        try:
            read_mask_file(tmp_path / name)
        except LabelError as error:
            refused.append(error.code)
    # Without compression only the header can be found to be wrong.
    assert refused or name == "m.nii"
    assert set(refused) <= {LabelCode.UNREADABLE_MASK}
