"""What a server answers is one line to a person, and asked for again only where that may help."""

from __future__ import annotations

import pytest

from etl.buckets.answers import is_final, is_no_access, one_line

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'ct-etl[bucket]'")
from obstore.exceptions import GenericError, PermissionDeniedError

# As obstore 0.12 words what SeaweedFS answers.
XML = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message><Key>a</Key></Error>'
LISTING = (
    "Generic S3 error: Error performing list request: Error performing GET http://127.0.0.1:9/data?prefix=a%2F"
)
ANSWERED = " in 2.52ms - Server returned non-2xx status code: {}: "
NO_BUCKET = LISTING + ANSWERED.format("404 Not Found") + XML.format("NoSuchBucket", "There is none")
DENIED = "The operation lacked the necessary privileges" + ANSWERED.format("403 Forbidden")
BUSY = LISTING + ANSWERED.format("503 Service Unavailable") + XML.format("SlowDown", "Later")
AWAY = (
    f"{LISTING} in 264.4µs, after 2 retries, max_retries: 2, retry_timeout: 5s  - HTTP error: error "
    "sending request\n\n\nDebug source:\nGeneric { store: ... }"
)
NOT_REMOVED = "Generic S3 error: DeleteObjects request failed for key a: Access Denied. (code: AccessDenied)"
CASES = [
    (
        GenericError(NO_BUCKET),
        True,
        False,
        "NoSuchBucket: There is none (HTTP 404 to GET http://127.0.0.1:9/data)",
    ),
    (PermissionDeniedError(DENIED + XML.format("AccessDenied", "No")), True, True, "AccessDenied: No (HTTP 403)"),
    (GenericError(BUSY), False, False, "SlowDown: Later (HTTP 503 to GET http://127.0.0.1:9/data)"),
    (GenericError(AWAY), False, False, f"{LISTING} - HTTP error: error sending request"),
    (GenericError(NOT_REMOVED), True, True, NOT_REMOVED),
    (GenericError("status code: 429: "), False, False, "status code: 429:"),
    (OSError("no room"), False, False, "no room"),
]


@pytest.mark.parametrize(("error", "final", "no_access", "said"), CASES, ids=[said[:20] for *_, said in CASES])
def test_an_answer_is_told_and_judged(error, final, no_access, said):
    assert (is_final(error), is_no_access(error), one_line(error)) == (final, no_access, said)
