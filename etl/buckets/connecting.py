"""How a bucket is reached, from the environment alone: its variables are those of the vendors' own tools.

A bucket for which nothing names credentials is taken for a public one, as the Imaging Data Commons has them:
requests then go unsigned instead of waiting for a metadata service that is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Any of these is a reason to sign; ``AWS_SKIP_SIGNATURE`` says it outright.
_CREDENTIALS = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ),
    "gs": (
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SKIP_SIGNATURE",
    ),
    "az": (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_CLIENT_ID",
        "AZURE_CLIENT_ID",
        "AZURE_STORAGE_TOKEN",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_SKIP_SIGNATURE",
    ),
}
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
TIMEOUT = "60s"
CONNECT_TIMEOUT = "5s"


def is_anonymous(scheme: str) -> bool:
    """Whether nothing in the environment names credentials for a kind of bucket."""
    return not any(os.environ.get(name) for name in _CREDENTIALS[scheme])


def client_options() -> dict[str, Any]:
    """Give what obstore's client needs: plain HTTP only where the endpoint is named with it."""
    options: dict[str, Any] = {"timeout": TIMEOUT, "connect_timeout": CONNECT_TIMEOUT}
    if any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS):
        options["allow_http"] = True
    return options


def reading_options(url: str) -> dict[str, Any]:
    """Give what fsspec needs to read a URL: s3fs asks for credentials unless told that there are none."""
    return {"anon": True} if url.startswith("s3://") and is_anonymous("s3") else {}


@contextmanager
def url_errors() -> Iterator[None]:
    """Make an `OSError` of what the library behind a URL raises: botocore's errors derive from none."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError):
        raise
    except Exception as error:
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error
