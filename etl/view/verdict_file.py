"""Write the verdicts of a store: one writer, each decision on the disk before it is answered."""

from __future__ import annotations

import csv
import io
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from etl.codes import VerdictCode
from etl.errors import UsageError
from etl.read.verdicts import COLUMNS, Verdict, parse_verdicts
from etl.store.lock import StoreLock

MAX_NOTE_CHARACTERS = 2000


class VerdictFile:
    """The verdicts of one store; use as a context manager, in which no other process writes them.

    A decision is one line at the end of the file, flushed to the disk. What a killed writer left of a line is cut
    off, so nothing that was answered is ever lost. Threads may share it.

    Parameters
    ----------
    path : Path
        Created with the first decision.

    Raises
    ------
    UsageError
        On entering: another process writes these verdicts.
    StoreError
        The file is none of verdicts.
    OSError
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._verdicts: dict[str, Verdict] = {}
        self._before: list[tuple[str, Verdict | None]] = []
        self._writing = threading.Lock()
        self._held = ExitStack()

    def __enter__(self) -> VerdictFile:
        try:
            self._held.enter_context(StoreLock(str(self.path)))
        except UsageError as error:
            raise UsageError(
                f"the verdicts {str(self.path)!r} are open in another view; close it, or give --read-only"
            ) from error
        with ExitStack() as undone:
            undone.callback(self._held.close)
            if self.path.exists():
                content = self.path.read_bytes()
                whole = content.rfind(b"\n") + 1
                self._verdicts = parse_verdicts(content, str(self.path))
                if whole < len(content):
                    os.truncate(self.path, whole)
            undone.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def get(self, node: str) -> Verdict | None:
        """Give what was decided about a volume; None where nobody has judged it."""
        return self._verdicts.get(node)

    def judge(self, node: str, verdict: VerdictCode | None, note: str = "") -> None:
        """Decide about a volume; `undo` takes it back.

        Parameters
        ----------
        node : str
        verdict : VerdictCode or None
            None: nothing is decided any more.
        note : str
            Line breaks become blanks.

        Raises
        ------
        UsageError
            The note is too long.
        OSError
            The decision is not on the disk.
        """
        if len(note) > MAX_NOTE_CHARACTERS:
            raise UsageError(f"a note of {len(note)} characters; allowed is up to {MAX_NOTE_CHARACTERS}")
        decided = None if verdict is None else Verdict(verdict, " ".join(note.split()))
        with self._writing:
            before = self._verdicts.get(node)
            self._append(node, decided)
            self._before.append((node, before))

    def undo(self) -> str | None:
        """Take the last decision of this session back; gives its node, None where there is none."""
        with self._writing:
            if not self._before:
                return None
            node, before = self._before[-1]
            self._append(node, before)
            self._before.pop()
            return node

    def count(self) -> int:
        """Count the volumes that have a verdict."""
        return len(self._verdicts)

    def _append(self, node: str, verdict: Verdict | None) -> None:
        text = io.StringIO(newline="")
        lines = csv.writer(text, lineterminator="\n")
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            length = os.fstat(descriptor).st_size
            if length == 0:
                lines.writerow(COLUMNS)
            lines.writerow([node, verdict.verdict if verdict else "", verdict.note if verdict else ""])
            content = text.getvalue().encode("utf-8", errors="backslashreplace")
            try:
                if os.write(descriptor, content) < len(content):
                    raise OSError(28, "no room for the whole line", str(self.path))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)
        if verdict is None:
            self._verdicts.pop(node, None)
        else:
            self._verdicts[node] = verdict
