"""Request ids: how a write is asked again without being done again.

A request id is `REVISION-NONCE`: the newest revision the client knew when it made the id, and a
nonce of 8 to 64 letters and digits. The pool remembers the ids of its last `history_revisions`
commits. An id is committed at a revision above the one it names, so an id that names a revision
inside that window cannot have been forgotten, and one that names an older revision is refused,
never executed: no clock takes part (design §4.5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from immutables import Map

from poolcore.errors import PoolError, Reason

_FORM = re.compile(r"([0-9]{1,18})-([0-9A-Za-z]{8,64})")


def request_id(base_revision: int, nonce: str) -> str:
    """The id of a write by a client that knows the pool up to `base_revision`."""
    return f"{base_revision}-{nonce}"


def base_revision(id_: str) -> int:
    """The revision that `id_` names; `INVALID_ARGUMENT` for an id of another form."""
    match = _FORM.fullmatch(id_)
    if match is None:
        raise PoolError(
            Reason.INVALID_VALUE,
            field="request_id",
            problem="must be REVISION-NONCE with a nonce of 8 to 64 letters and digits",
        )
    return int(match[1])


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A write that was executed: its id, the hash of its payload and the revision it became."""

    id: str
    payload_hash: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class RequestWindow:
    """The requests of the last commits, kept in step with the chain on every host."""

    by_id: Map[str, RequestRecord] = Map()
    by_revision: Map[int, str] = Map()

    def advanced(self, revision: int, length: int, record: RequestRecord | None) -> RequestWindow:
        """The window after the commit of `revision`, which carried `record`.

        Drops what falls out of the last `length` revisions: at most one record, as revisions are
        dense and each carries at most one.
        """
        gone = self.by_revision.get(revision - length)
        if gone is None and record is None:
            return self
        by_id, by_revision = self.by_id, self.by_revision
        if gone is not None:
            by_id = by_id.delete(gone)
            by_revision = by_revision.delete(revision - length)
        if record is not None:
            by_id = by_id.set(record.id, record)
            by_revision = by_revision.set(revision, record.id)
        return RequestWindow(by_id, by_revision)

    def first_outcome(
        self, id_: str, payload_hash: bytes, *, last_revision: int, length: int
    ) -> RequestRecord | None:
        """The record of `id_` if it was executed before, or none if it may be executed now.

        Raises `REQUEST_ID_REUSED` when it was executed with another payload, `REQUEST_TOO_OLD`
        when its record may have left the window.
        """
        base = base_revision(id_)
        record = self.by_id.get(id_)
        if record is not None:
            if record.payload_hash != payload_hash:
                raise PoolError(Reason.REQUEST_ID_REUSED, request_id=id_)
            return record
        if base > last_revision:
            raise PoolError(
                Reason.INVALID_VALUE,
                field="request_id",
                problem=f"names revision {base}, which this pool has not reached",
            )
        if base <= last_revision - length:
            raise PoolError(
                Reason.REQUEST_TOO_OLD, request_id=id_, oldest=str(last_revision - length + 1)
            )
        return None
