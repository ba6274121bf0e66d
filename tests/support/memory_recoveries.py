"""What a host has put aside, in memory: the surface of `RecoveryFolder` without files."""

from __future__ import annotations

from collections.abc import Sequence

from poolcore.facts import Recovery
from poolmember.recovery_folder import described, merged, page


class MemoryRecoveries:
    """Implements `poolmember.recovery.Recoveries`; outlives daemons, as a folder does."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}

    async def save(self, name: str, lines: Sequence[str]) -> None:
        self.lines[name] = merged(self.lines.get(name, ()), lines)

    async def all(self) -> tuple[Recovery, ...]:
        found = (described(name, lines, saved=0.0) for name, lines in self.lines.items())
        return tuple(sorted(found, key=lambda r: (r.incarnation.counter, r.name)))

    async def read(self, name: str, after: int) -> tuple[tuple[str, ...], int | None]:
        return page(self.lines[name], after)
