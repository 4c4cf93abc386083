"""`ct-etl explain` and `doctor`: what a person asks when something is odd."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import imagecodecs
import pytest

from etl.codes import ExclusionCode, FailureCode, LabelCode, WarningCode
from etl.dicom.decoder_check import broken_decoders
from etl.report.explain import explanations
from etl.transfer_syntaxes import DISTRIBUTIONS

CODES = [*WarningCode, *FailureCode, *ExclusionCode, *LabelCode]


def test_every_code_has_a_cause_and_a_remedy_and_nothing_else_has() -> None:
    text = (resources.files("etl") / "rules" / "explanations.toml").read_text("utf-8")
    written = tomllib.loads(text)
    assert set(written) == set(map(str, CODES))
    for code, explanation in written.items():
        assert set(explanation) == {"cause", "remedy"}, code
        for sentence in explanation.values():
            assert sentence[0].isupper() or sentence.startswith("--"), (code, sentence)
            assert sentence.endswith("."), (code, sentence)


def test_options_that_explanations_name_exist() -> None:
    import re

    from etl.config import OPTIONS, flag_of

    flags = {flag_of(name) for name in OPTIONS} | {"--map"}
    for one in explanations().values():
        assert set(re.findall(r"--[a-z-]+[a-z]", f"{one.cause} {one.remedy}")) <= flags, one.code


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_explained(in_process, code) -> None:
    done = in_process("explain", str(code))
    assert done.status == 0
    flat = " ".join(done.stdout.split())
    assert flat.split()[0] == str(code)
    assert code.words in flat
    assert "usual cause: " in flat
    assert "what to do: " in flat
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_all_codes_are_listed(in_process) -> None:
    lines = in_process("explain").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(map(str, CODES))


def test_an_unknown_code_names_the_nearest(in_process) -> None:
    done = in_process("explain", "missing-slises")
    assert done.status == 2
    assert done.stderr.startswith("ct-etl: no code 'missing-slises'; did you mean missing-slices")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["rnu", "a", "b"], "run"),
        (["run", "a", "b", "--preset", "hed-ct"], "head-ct"),
        (["run", "a", "b", "--codec", "lz5"], "lz4"),
        (["run", "a", "b", "--series", "defalt"], "default"),
        (["run", "a", "b", "--spacng-mm", "1"], "--spacing-mm"),
    ],
)
def test_wrong_use_names_the_nearest_right_word(in_process, arguments, meant) -> None:
    done = in_process(*arguments)
    assert done.status == 2
    assert meant in done.stderr.lower().partition("did you mean")[2]
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_key_of_a_preset_names_the_nearest(in_process, tmp_path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text("spacingmm = 1\n")
    done = in_process("run", "a", "b", "--preset", preset)
    assert done.status == 2
    assert "did you mean spacing_mm?" in done.stderr


def test_every_decoder_is_tried(monkeypatch) -> None:
    assert broken_decoders() == {}
    compressed = set(DISTRIBUTIONS) - {"numpy", "pydicom", "zlib"}
    real = imagecodecs.jpegls_decode
    monkeypatch.setattr(imagecodecs, "jpegls_decode", lambda content: real(content) + 1)
    monkeypatch.setattr("etl.dicom.decoder_check.get_decoder", None)
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", None)
    assert set(broken_decoders()) == compressed


def test_doctor_looks_at_this_machine(in_process, tmp_path) -> None:
    done = in_process("doctor", tmp_path)
    assert done.status == 0, done.stdout
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())
    for what in ("Python", "numpy", "decoder openjpeg", "cores", "memory", "room", "disk"):
        assert f"  {what} " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_is_bad(in_process, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("etl.run.doctor.MIN_FREE_BYTES", 1 << 60)
    done = in_process("doctor", tmp_path)
    assert done.status == 3
    (bad,) = (line for line in done.stdout.splitlines() if line.startswith("BAD"))
    assert "room" in bad


def test_doctor_of_no_folder_is_wrong_use(in_process, tmp_path) -> None:
    done = in_process("doctor", tmp_path / "none")
    assert done.status == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        asked = {"_CT_ETL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [Path(sys.executable).with_name("ct-etl")],
            check=False,
            env={**os.environ, **asked},
            capture_output=True,
            text=True,
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("ct-etl expl") == ["explain"]
    assert "--spacing-mm" in completed("ct-etl run --sp")
