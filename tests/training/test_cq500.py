"""`docs/cq500.md` from its first line to its last, in one folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import etl

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make extras")
PAGE = Path(__file__).parents[2] / "docs" / "cq500.md"


@pytest.mark.slow
def test_the_page_on_cq500_is_true(tmp_path, monkeypatch, ct_etl):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    found: dict[str, object] = {}
    printed: dict[str, str] = {}
    for language, text in re.findall(r"(?ms)^```(\w+)\n(.*?)^```", PAGE.read_text("utf-8")):
        if language == "python":
            exec(compile(text, "cq500.md", "exec"), found)
            continue
        assert language == "sh"
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "ct-etl"
            more = ("--workers", "0", "-q") if arguments[0] == "run" else ()
            done = ct_etl(*arguments, *more, cwd=tmp_path)
            assert done.status == 0, done.why
            printed[arguments[0]] = done.stdout
    assert printed["info"].splitlines()[0].endswith("R1:ICH,R2:ICH,R3:ICH")
    assert printed["verify"] == "8 volumes checked\n"
    store = etl.open_store(tmp_path / "demo" / "cq500.zarr")
    assert store["PHANTOM-0004"].default.columns == {"R1:ICH": 0, "R2:ICH": 1, "R3:ICH": None}
    assert len(found["whole"]) == 3
    # What was predicted went out as DICOM SEG, and came in again.
    volume = store["PHANTOM-0001"].default
    assert {"prediction", "seg"} <= set(volume.labels)
    predicted, mask = volume.side_array("labels/prediction/0") > 0, found["mask"] > 0
    assert 2 * (predicted & mask).sum() > 0.95 * (predicted.sum() + mask.sum())
    assert abs(predicted.sum() / mask.sum() - 1) < 0.03
    # All of each head lies in its crop, and the majority is that of the table.
    assert all(max(volume.shape) <= 64 for patient in store.values() for volume in [patient.default])
    [batch] = list(found["loader"])
    assert batch["target"].sum(1).tolist() == [2, 0, 3]
    losses = found["losses"]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
