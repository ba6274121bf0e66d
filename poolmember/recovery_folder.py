"""The folder of what a host has put aside: a file of JSON Lines for each incarnation.

The files are the host's: mode 0600, not touched by `poolmember reset`, and never deleted by the
daemon. They may be all that is left of changes that were once acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from poolcore.facts import Recovery
from poolcore.filesystem import sync_directory
from poolcore.model import HostId, Incarnation, PoolId
from poolmember.state_dir import replace_file, unwritable

log = logging.getLogger(__name__)

UNREADABLE = (ValueError, LookupError, TypeError)
"""What is raised by lines that are none of ours."""
PAGE_BYTES = 512 * 1024
_SUFFIX = ".jsonl"
_NAME = re.compile(r"\d+-[0-9a-f]{1,8}")


class RecoveryFolder:
    """Implements `poolmember.recovery.Recoveries` in a folder, made when it is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def save(self, name: str, lines: Sequence[str]) -> None:
        """See `Recoveries`."""
        await asyncio.to_thread(self._save, name, lines)

    async def all(self) -> tuple[Recovery, ...]:
        """See `Recoveries`."""
        return await asyncio.to_thread(self._all)

    async def read(self, name: str, after: int) -> tuple[tuple[str, ...], int | None]:
        """See `Recoveries`."""
        return page(await asyncio.to_thread(self._lines, name), after)

    def _save(self, name: str, lines: Sequence[str]) -> None:
        try:
            self._path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(self._path.parent)
            together = merged(self._kept(name), lines)
            replace_file(self._file(name), "".join(f"{line}\n" for line in together))
        except OSError as error:
            raise unwritable(self._path, error) from error

    def _kept(self, name: str) -> list[str]:
        """What is there under a name; what cannot be read is renamed, and stays."""
        if not self._file(name).exists():
            return []
        lines = self._lines(name)
        try:
            described(name, lines, saved=0.0)
        except UNREADABLE as error:
            log.warning("%s cannot be read: %r; it is kept aside", self._file(name), error)
            self._file(name).rename(self._path / f"{name}.unreadable")
            return []
        return lines

    def _all(self) -> tuple[Recovery, ...]:
        found = (self._described(file) for file in self._path.glob(f"*{_SUFFIX}"))
        return tuple(sorted(filter(None, found), key=lambda r: (r.incarnation.counter, r.name)))

    def _described(self, file: Path) -> Recovery | None:
        name = file.name.removesuffix(_SUFFIX)
        if not _NAME.fullmatch(name):
            return None
        try:
            return described(name, self._lines(name), saved=file.stat().st_mtime)
        except (OSError, *UNREADABLE) as error:
            # Somebody has been at it. That is no reason for the host not to follow its pool.
            log.warning("%s cannot be read: %r", file, error)
            return None

    def _lines(self, name: str) -> list[str]:
        if not _NAME.fullmatch(name):
            raise KeyError(name)
        try:
            text = self._file(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise KeyError(name) from None
        # Not `splitlines`: a name may hold a character that it takes for the end of a line.
        return text.removesuffix("\n").split("\n")

    def _file(self, name: str) -> Path:
        return self._path / f"{name}{_SUFFIX}"


def merged(kept: Sequence[str], new: Sequence[str]) -> list[str]:
    """The lines of both, by revision; of a commit that is in both, the new ones."""
    fresh = [(_revision(line), line) for line in new]
    again = {revision for revision, _ in fresh}
    old = [(_revision(line), line) for line in kept]
    both = [item for item in old if item[0] not in again] + fresh
    return [line for _, line in sorted(both, key=lambda item: item[0])]


def described(name: str, lines: Sequence[str], *, saved: float) -> Recovery:
    """What the lines of one recovery tell; `saved` is the time of their last change, in seconds."""
    first: dict[str, Any] = json.loads(lines[0])
    revisions = [_revision(line) for line in lines]
    return Recovery(
        name=name,
        host=HostId(first["host"]),
        pool=PoolId(first["pool"]),
        incarnation=Incarnation(**first["incarnation"]),
        first_revision=revisions[0],
        last_revision=revisions[-1],
        commits=len(set(revisions)),
        saved=datetime.fromtimestamp(saved, UTC),
    )


def page(lines: Sequence[str], after: int) -> tuple[tuple[str, ...], int | None]:
    """As many lines behind the first `after` as one answer takes, at least one if there is one."""
    size, end = 0, after
    while end < len(lines) and (end == after or size < PAGE_BYTES):
        size += len(lines[end])
        end += 1
    return tuple(lines[after:end]), end if end < len(lines) else None


def _revision(line: str) -> int:
    revision: int = json.loads(line)["revision"]
    return revision
