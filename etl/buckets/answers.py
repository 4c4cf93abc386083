"""What an error of obstore says: whether asking again may help, and what a person should read."""

from __future__ import annotations

import re

# Codes of HTTP that another try may turn into an answer; the other 4xx are answers.
_PASSING = ("408", "425", "429")
_STATUS = re.compile(r"status code: (\d{3})")
_REASON = re.compile(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)</Message>)?")
# Many objects are removed by one request, whose answer has no status for each.
_DELETION_DENIED = "(code: AccessDenied)"
_NO_ACCESS = ("401", "403")
_REQUEST = re.compile(r"performing ([A-Z]+ \S+)")
_COUNTS = re.compile(r" in [\d.]+[nµm]?s(?:, after \d+ retries, max_retries: \d+, retry_timeout: \w+)?")


def is_final(error: BaseException) -> bool:
    """Whether asking again would give the same."""
    from obstore.exceptions import GenericError  # noqa: PLC0415 - see `etl.buckets.bucket`

    if not isinstance(error, GenericError):
        return not isinstance(error, OSError)
    status = _status(error)
    return (status[:1] == "4" and status not in _PASSING) or _DELETION_DENIED in str(error)


def is_no_access(error: BaseException) -> bool:
    """Whether a server refuses whoever asks."""
    return _status(error) in _NO_ACCESS or _DELETION_DENIED in str(error)


def one_line(error: BaseException) -> str:
    """Give what an error says to people: the server's reason, or what obstore says without its counts."""
    text = " ".join(str(error).partition("Debug source")[0].split())
    reason = _REASON.search(text)
    if reason:
        request = _REQUEST.search(text)
        asked = f" to {request[1].partition('?')[0]}" if request else ""
        return f"{reason[1]}: {reason[2] or 'no more is said'} (HTTP {_status(error)}{asked})"
    return _COUNTS.sub("", text)[:300] or type(error).__name__


def _status(error: BaseException) -> str:
    found = _STATUS.search(str(error))
    return found[1] if found else ""
