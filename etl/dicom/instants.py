"""When something was: dates and times of DICOM as instants that can be compared, also over midnight.

References
----------
DICOM PS3.5 6.2 (VR DA, TM, DT); ACR-NEMA wrote ``10:12:00`` and ``2024.01.31``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(?:\.(\d{1,9}))?)?)?")
_DATE_TIME = re.compile(r"(\d{4})(?:(\d{2})(?:(\d{2})(\d[\d.]*)?)?)?([+-]\d{4})?")
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000


def time_of_day_us(text: str) -> int | None:
    """Give a TM as microseconds since midnight; None where it is none.

    Examples
    --------
    >>> [time_of_day_us(text) // 1_000_000 for text in ("10", "1012", "101200.5", "10:12:00")]
    [36000, 36720, 36720, 36720]
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3))
    # 60 is a leap second.
    if hour > 23 or minute > 59 or second > 60:
        return None
    fraction = int((match[4] or "0")[:6].ljust(6, "0"))
    return ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction


def date_us(text: str) -> int | None:
    """Give the midnight at which a DA begins as microseconds since 1970; None where it is none.

    Examples
    --------
    >>> date_us("19700102") == date_us("1970.01.02") == 86_400_000_000
    True
    """
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    try:
        day = datetime(int(match[1]), int(match[2]), int(match[3]), tzinfo=UTC)
    except ValueError:
        return None
    return (day - _EPOCH) // timedelta(microseconds=1)


def date_time_us(text: str) -> int | None:
    """Give a DT as microseconds since 1970; None where it is none, or says no more than a year.

    An offset from UTC is taken off; without one the time is as the scanner's clock showed it.

    Examples
    --------
    >>> date_time_us("20240101235959.5") == date_time_us("20240102005959.5+0100")
    True
    """
    match = _DATE_TIME.fullmatch(text.strip())
    if match is None or match[2] is None:
        return None
    day = date_us(match[1] + match[2] + (match[3] or "01"))
    time = time_of_day_us(match[4]) if match[4] else 0
    if day is None or time is None:
        return None
    return day + time - _offset_us(match[5] or "")


def instant_us(*texts: str) -> int | None:
    """Give the instant of a DT, of a DA and a TM, or of a TM alone; None where it cannot be told.

    Examples
    --------
    >>> instant_us("20240102", "000001") - instant_us("20240101", "235959")
    2000000
    """
    if len(texts) == 1:
        found = date_time_us(texts[0])
        return time_of_day_us(texts[0]) if found is None else found
    date, time = texts
    day, moment = date_us(date) if date.strip() else 0, time_of_day_us(time)
    return None if day is None or moment is None else day + moment


def _offset_us(text: str) -> int:
    match = _OFFSET.fullmatch(text)
    if match is None:
        return 0
    minutes = int(match[2]) * 60 + int(match[3])
    return (-1 if match[1] == "-" else 1) * minutes * 60_000_000
