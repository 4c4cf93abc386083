"""What is answered to a browser."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Response:
    """A body with its type, status and further headers."""

    body: bytes
    content_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(value: Any, status: int = 200) -> Response:
    """Answer with plain JSON values."""
    return Response(json.dumps(value).encode(), "application/json", status)


def file_response(name: str, content: bytes) -> Response:
    """Answer with a file, its type by its name."""
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(content, f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
