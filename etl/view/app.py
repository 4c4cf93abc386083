"""The answers of the viewer, without a network: an address and a body give a response."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from etl.codes import VerdictCode, words_of
from etl.errors import StoreError, UsageError
from etl.read.patients import Store
from etl.read.stored_bytes import read_range
from etl.read.verdicts import UNJUDGED, VERDICTS, Verdict
from etl.view.cohort import ANY_OF, MAX_PAGE_ROWS, ORDERS, PAGE_ROWS, Cohort, Query, Row
from etl.view.left_out import LeftOut
from etl.view.pictures import draw_slice, draw_thumbnail
from etl.view.planes import lay_out_plane
from etl.view.responses import Response, file_response, json_response
from etl.view.scene import CLIENT, client_folder, read_client, scene_of
from etl.view.verdict_file import VerdictFile
from etl.view.volume_page import describe, look_up, overlays_of

CACHED_PICTURES = 512
CACHED_THUMBNAILS = 4096
STATIC = ("icon.svg", "view.css", "cohort.js", "volume.js", "shared.js")

Values = Mapping[str, Sequence[str]]


class App:
    """The viewer of one store.

    Parameters
    ----------
    store : Store
    ledger : sequence of mappings
        Of the newest run; empty where there is none.
    verdicts : VerdictFile, optional
        None: verdicts can be neither seen nor given.
    """

    def __init__(
        self, store: Store, *, ledger: Sequence[Mapping[str, Any]] = (), verdicts: VerdictFile | None = None
    ) -> None:
        self._cohort = Cohort(store)
        self._left_out = LeftOut(ledger)
        self._verdicts = verdicts
        self._templates = Environment(
            loader=PackageLoader("etl.view"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._thumbnail = lru_cache(CACHED_THUMBNAILS)(self._draw_thumbnail)
        self._picture = lru_cache(CACHED_PICTURES)(self._draw_picture)
        self._pages: dict[str, Callable[[Values], Response]] = {
            "": self._cohort_page,
            "volume": self._volume_page,
            "thumbnail": lambda values: Response(self._thumbnail(self._node(values)), "image/jpeg"),
            "picture": self._slice,
            "api/volumes": self._volumes,
            "api/volume": self._volume,
            "api/hu": self._hu,
            "api/left-out": self._excluded,
        }

    def get(self, path: str, values: Values, *, byte_range: tuple[int, int | None] | None, base: str) -> Response:
        """Answer a request that changes nothing.

        Parameters
        ----------
        path : str
            Below the token, without a slash in front.
        values : mapping
            Of the query string.
        byte_range : (first, stop), optional
            Of the key of the store that is asked for; a negative first counts from the end.
        base : str
            Address below which all this is served.
        """
        try:
            return self._answer(path, values, byte_range, base)
        except (KeyError, FileNotFoundError):
            return json_response({"error": "There is nothing here."}, 404)
        except UsageError as error:
            return json_response({"error": str(error)}, 400)
        except StoreError:
            # The error names the store's path, which has no place on a page.
            return json_response({"error": "It cannot be read: missing or damaged; see ct-etl verify."}, 500)

    def post(self, path: str, body: bytes) -> Response:
        """Answer a request that changes a verdict; the store is never written to.

        Parameters
        ----------
        path : str
            Below the token, without a slash in front.
        body : bytes
            JSON.
        """
        if self._verdicts is None:
            return json_response({"error": "Verdicts cannot be given here: the view is read-only."}, 403)
        changes = {"api/undo": self._undo, "api/verdict": self._judge}
        if path not in changes:
            return json_response({"error": "There is nothing here."}, 404)
        try:
            return json_response({"node": changes[path](self._verdicts, body), "progress": self._progress()})
        except UsageError as error:
            return json_response({"error": str(error)}, 400)
        except OSError as error:
            return json_response({"error": f"The verdict could not be saved: {error.strerror}."}, 500)

    def _answer(self, path: str, values: Values, byte_range: tuple[int, int | None] | None, base: str) -> Response:
        folder, _, name = path.partition("/")
        if path in self._pages:
            return self._pages[path](values)
        if path == "api/scene":
            return self._scene(values, base)
        if folder == "static" and name in STATIC:
            return file_response(name, (files("etl.view") / "static" / name).read_bytes())
        if path.startswith(CLIENT):
            name = path.removeprefix(CLIENT) or "index.html"
            return file_response(name, read_client(name))
        if folder == "store":
            return self._stored(name, byte_range)
        raise KeyError(path)

    def _judge(self, verdicts: VerdictFile, body: bytes) -> str:
        try:
            asked = json.loads(body)
            node, said, note = str(asked["node"]), asked["verdict"], str(asked.get("note", ""))
            verdict = None if said is None else VERDICTS[said]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"a node and a verdict are needed: {', '.join(VerdictCode)}, or null") from error
        if node not in self._cohort:
            raise UsageError(f"there is no volume {node!r}")
        verdicts.judge(node, verdict, note)
        return node

    def _undo(self, verdicts: VerdictFile, _body: bytes) -> str | None:
        return verdicts.undo()

    # --- pages ------------------------------------------------------------------------------------------

    def _cohort_page(self, values: Values) -> Response:
        return self._page("cohort.html.jinja", {})

    def _volume_page(self, values: Values) -> Response:
        return self._page("volume.html.jinja", {"row": self._cohort.row(self._node(values))})

    def _page(self, template: str, more: Mapping[str, Any]) -> Response:
        known = {
            "orders": list(ORDERS),
            "filters": ANY_OF,
            "verdicts": [(str(code), code.words) for code in VerdictCode],
            "can_judge": self._verdicts is not None,
            "has_neuroglancer": client_folder() is not None,
            "left_out": len(self._left_out),
            "volumes": len(self._cohort.rows),
            "patients": len(self._cohort.store),
        }
        text = self._templates.get_template(template).render({**known, **more})
        return Response(text.encode("utf-8", errors="backslashreplace"), "text/html; charset=utf-8")

    # --- data -------------------------------------------------------------------------------------------

    def _volumes(self, values: Values) -> Response:
        found = self._cohort.find(Query.parse(values), self._verdict_of)
        first, count = _window(values)
        return json_response(
            {
                "total": len(self._cohort.rows),
                "found": len(found),
                "first": first,
                "rows": [self._as_json(row) for row in found[first : first + count]],
                "choices": self._cohort.choices(self._verdict_of),
                "progress": self._progress(),
            }
        )

    def _volume(self, values: Values) -> Response:
        node = self._node(values)
        about = describe(self._cohort.volume(node))
        ordered = [row.node for row in self._cohort.find(Query.parse(values), self._verdict_of)]
        at = ordered.index(node) if node in ordered else None
        beside = {"previous": None, "next": ordered[0] if ordered and at is None else None}
        if at is not None:
            beside["previous"] = ordered[at - 1] if at else None
            beside["next"] = ordered[at + 1] if at + 1 < len(ordered) else None
        return json_response({**about, **beside, **self._judged(node), "progress": self._progress()})

    def _hu(self, values: Values) -> Response:
        index = [_whole(values, name) for name in "kji"]
        return json_response(look_up(self._cohort.volume(self._node(values)), index))

    def _excluded(self, values: Values) -> Response:
        if "reason" not in values:
            return json_response({"total": len(self._left_out), "reasons": self._left_out.reasons()})
        outcome = _first(values, "outcome")
        return json_response({"lines": self._left_out.lines(outcome, _first(values, "reason"), *_window(values))})

    def _slice(self, values: Values) -> Response:
        picture = self._picture(
            self._node(values),
            _whole(values, "axis"),
            _whole(values, "index"),
            _first(values, "window"),
            _first(values, "overlay"),
        )
        return Response(picture, "image/png")

    def _scene(self, values: Values, base: str) -> Response:
        volume = self._cohort.volume(self._node(values))
        window = _first(values, "window")
        scene = scene_of(volume, f"{base}/store", window=window, overlays=overlays_of(volume))
        return json_response(scene)

    def _stored(self, key: str, byte_range: tuple[int, int | None] | None) -> Response:
        start, stop = byte_range or (0, None)
        content, length = read_range(self._cohort.store.path, key, start, stop)
        kind = "application/json" if key.endswith("zarr.json") else "application/octet-stream"
        if byte_range is None:
            return Response(content, kind, headers={"Accept-Ranges": "bytes"})
        first = max(0, length + start) if start < 0 else start
        if first >= length:
            return Response(b"", kind, 416, {"Content-Range": f"bytes */{length}"})
        return Response(
            content, kind, 206, {"Content-Range": f"bytes {first}-{first + len(content) - 1}/{length}"}
        )

    # --- parts ------------------------------------------------------------------------------------------

    def _draw_thumbnail(self, node: str) -> bytes:
        return draw_thumbnail(self._cohort.volume(node))

    def _draw_picture(self, node: str, axis: int, index: int, window: str, overlay: str) -> bytes:
        if axis not in range(3):
            raise UsageError(f"axis {axis}: allowed is 0, 1, 2")
        volume = self._cohort.volume(node)
        return draw_slice(volume, lay_out_plane(volume.geometry, axis), index, window=window, overlay=overlay)

    def _node(self, values: Values) -> str:
        node = _first(values, "node")
        if node not in self._cohort:
            raise KeyError(node)
        return node

    def _verdict_of(self, node: str) -> str:
        found = self._verdicts.get(node) if self._verdicts else None
        return str(found.verdict) if found else UNJUDGED

    def _judged(self, node: str) -> dict[str, Any]:
        found: Verdict | None = self._verdicts.get(node) if self._verdicts else None
        return {"verdict": str(found.verdict) if found else None, "note": found.note if found else ""}

    def _progress(self) -> dict[str, int]:
        seen = sum(self._verdict_of(row.node) != UNJUDGED for row in self._cohort.rows)
        return {"seen": seen, "total": len(self._cohort.rows)}

    def _as_json(self, row: Row) -> dict[str, Any]:
        warnings = [{"code": code, "words": words_of(code)} for code in row.warnings]
        link = urlencode({"node": row.node})
        return {**vars(row), "warnings": warnings, "link": link, **self._judged(row.node)}


def _first(values: Values, name: str) -> str:
    return (values.get(name) or [""])[0]


def _whole(values: Values, name: str) -> int:
    text = _first(values, name)
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"{name} {text!r}: a whole number is needed")
    return int(text)


def _window(values: Values) -> tuple[int, int]:
    """First row and number of rows that are asked for."""
    first = _whole(values, "first") if "first" in values else 0
    count = _whole(values, "count") if "count" in values else PAGE_ROWS
    return first, min(count, MAX_PAGE_ROWS)
