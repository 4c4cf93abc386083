"""Patient, study and series of a file, also where it does not name them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

from etl.dicom.attributes import read_int, read_mark, read_text
from etl.dicom.identifiers import LOST_CHARACTER, read_identifier
from etl.stack import MAX_UID_CHARACTERS


@dataclass(frozen=True)
class Identity:
    """Whose slice it is, with substitutes where the file does not say.

    A UID made from the digest of a path identifies the folder without telling its name (DICOM PS3.5 B.2).
    """

    patient_id: str
    from_path: bool
    is_undecodable: bool
    """Some of the Patient ID's bytes are no text in the file's character set, and stand as ``\\xNN``."""
    study: str
    series: str
    series_from_path: bool

    @staticmethod
    def of(dataset: Dataset, source_name: str, folder: str) -> Identity:
        """Read the identity of a file; `source_name` and `folder` stand in for what is absent."""
        given, is_whole = read_identifier(dataset, "PatientID")
        patient = given or source_name
        study = uid(dataset, "StudyInstanceUID") or substitute_uid(patient, "study")
        if LOST_CHARACTER in patient:
            # What an earlier program could not read is lost: two people's IDs may read the same now. One study is
            # of one person; more is not known.
            patient = f"{patient}~{hashlib.sha256(study.encode()).hexdigest()[:8]}"
        series = uid(dataset, "SeriesInstanceUID")
        if series:
            return Identity(patient, not given, not is_whole, study, series, False)
        number = str(read_int(dataset, "SeriesNumber", 0))
        substitute = substitute_uid(patient, study, source_name, folder, number)
        return Identity(patient, not given, not is_whole, study, substitute, True)


def person(dataset: Dataset) -> tuple[str, ...]:
    """Give birth date, sex and issuer of the Patient ID (0010,0021), to compare and never to show.

    Empty where absent or meaningless, so that what says nothing contradicts nothing.
    """
    birth_date = re.sub(r"\D", "", read_mark(dataset, "PatientBirthDate"))
    sex = read_mark(dataset, "PatientSex").upper()[:1]
    return (
        birth_date if birth_date.strip("0") else "",
        sex if sex in {"M", "F", "O"} else "",
        read_mark(dataset, "IssuerOfPatientID"),
    )


def uid(dataset: Dataset, keyword: str) -> str:
    """Give a UID; a longer one than a UI may be (DICOM PS3.5 9.1) is replaced: cut off it might be another's."""
    given = read_text(dataset, keyword)
    return given if len(given) <= MAX_UID_CHARACTERS else substitute_uid(given)


def substitute_uid(*parts: str) -> str:
    """Make a UID that is the same for the same parts and tells nothing of them."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
