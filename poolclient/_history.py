"""Who was master from when until when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from poolcore.model import Accession, HostId, MasterRecord


@dataclass(frozen=True, slots=True)
class Reign:
    """One mastership; `until` is when the next one began, none for the present one."""

    incarnation: int
    term: int
    host: HostId
    """It may have left the pool since."""
    since: datetime
    until: datetime | None
    why: Accession


def reigns(records: Iterable[MasterRecord]) -> tuple[Reign, ...]:
    """The masterships that records tell of, the newest first."""
    found: list[Reign] = []
    for record in sorted(records, key=lambda r: (r.incarnation, r.term), reverse=True):
        found.append(
            Reign(
                incarnation=record.incarnation,
                term=record.term,
                host=record.host,
                since=record.since,
                until=found[-1].since if found else None,
                why=record.why,
            )
        )
    return tuple(found)
