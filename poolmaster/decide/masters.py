"""Who was master when, and why: a record for each mastership, the newest of them kept.

A record says how its mastership began; it ended when the next one did. So nothing has to be
written by a master that goes down, which often cannot.
"""

from __future__ import annotations

from datetime import datetime

from poolcore.model import (
    Accession,
    HostId,
    Kind,
    MasterRecord,
    MasterRecordId,
    PoolId,
    derived_uuid,
)
from poolcore.replica import Change, Put, Remove, State

MASTER_RECORDS_KEPT = 100
"""How many records a pool has at most."""


def founding_record(pool: PoolId, host: HostId, *, now: datetime) -> MasterRecord:
    """That `host` founded the pool and is its first master."""
    return _record(pool, 1, term=1, host=host, now=now, why=Accession.FOUNDED)


def began(
    state: State, *, term: int, host: HostId, now: datetime, why: Accession
) -> tuple[Change, ...]:
    """The changes that record that the mastership of `term` has begun; none if it is recorded.

    The oldest records beyond `MASTER_RECORDS_KEPT` go. Age is told by incarnation and term: clocks
    may be wrong.
    """
    record = _record(
        state.pool.uuid, state.incarnation.counter, term=term, host=host, now=now, why=why
    )
    if state.get(MasterRecord, record.uuid) is not None:
        return ()
    records = sorted((*state.all(MasterRecord), record), key=lambda r: (r.incarnation, r.term))
    surplus = (r for r in records[:-MASTER_RECORDS_KEPT] if r != record)
    return (Put(record), *(Remove(Kind.MASTER_RECORD, r.uuid) for r in surplus))


def _record(
    pool: PoolId, incarnation: int, *, term: int, host: HostId, now: datetime, why: Accession
) -> MasterRecord:
    # The same mastership is the same object, however often its record is asked for.
    uuid = derived_uuid(pool, Kind.MASTER_RECORD, f"{incarnation}.{term}")
    return MasterRecord(
        uuid=MasterRecordId(uuid),
        incarnation=incarnation,
        term=term,
        host=host,
        since=now,
        why=why,
    )
