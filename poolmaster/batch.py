"""A batch: writes decided one after the other, to be committed in one transaction.

Nothing here does I/O. Each write is decided on the state that the one before it leaves. What its
caller is to be told is kept until the ledger knows what became of the transaction, a refusal too:
it may rest on a write of the same batch that is never made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from poolcore.errors import PoolError, Reason
from poolcore.replica import Change, CommitId, Delta, Head, State, apply
from poolcore.requests import RequestRecord
from poolcore.wire.chain import encode_delta
from poolmaster.feed import Commit
from poolmaster.layout import HEAD, commit_writes, encode_head, log_key, request_key
from poolmaster.store.contract import Compare, Write

log = logging.getLogger(__name__)

BATCH_WRITES = 256
BATCH_BYTES = 1024 * 1024
"""Of serialized deltas: when a batch is full, and what a single write may not exceed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a write comes to: the changes, and whatever its caller wants to know."""

    changes: tuple[Change, ...]
    result: Any = None


Decide = Callable[[State], Decision]
"""Pure; sees the state right before its own commit, raises `PoolError` to refuse."""


@dataclass(frozen=True, slots=True)
class Request:
    """A write's id and the hash of its payload."""

    id: str
    payload_hash: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a write became. `delta` is none when nothing had to be changed."""

    revision: int
    delta: Delta | None
    result: Any = None
    data: bytes | None = None
    """The serialized `delta`."""
    repeated: bool = False
    """Whether it was done before, by the same request id; `result` is none then."""


def executed(state: State, request: Request) -> RequestRecord | None:
    """The record of a request that was executed before, none if it may be executed now.

    Raises `REQUEST_ID_REUSED`, `REQUEST_TOO_OLD` or `INVALID_VALUE`, as `RequestWindow` does.
    """
    return state.requests.first_outcome(
        request.id,
        request.payload_hash,
        last_revision=state.revision,
        length=state.history_revisions,
    )


@dataclass(frozen=True, slots=True, eq=False)
class PendingWrite:
    """A write that waits for its outcome."""

    decide: Decide
    request: Request | None
    answer: asyncio.Future[Outcome]


class Batch:
    """Writes that become one transaction, and the state and head that it leads to."""

    def __init__(self, head: Head, state: State) -> None:
        self.head = head
        self.state = state
        self.commits: list[Commit] = []
        self.taken: list[PendingWrite] = []
        self.before = head
        self._compares: dict[bytes, Compare] = {}
        self._writes: dict[bytes, Write] = {}
        self._bytes = 0
        self._answers: list[tuple[asyncio.Future[Outcome], Outcome | Exception]] = []

    def has_room(self, writes: int) -> bool:
        """Whether it takes a further write when at most `writes` of them may change something."""
        return len(self.commits) < writes and self._bytes < BATCH_BYTES

    def add(self, write: PendingWrite) -> None:
        """Decide a write as the next of the batch."""
        outcome: Outcome | Exception
        try:
            outcome = self._decided(write)
        except PoolError as refusal:
            outcome = refusal
        except Exception as error:
            # A bug in one decision must not take the mastership with it.
            log.exception("a decision failed")
            outcome = error
        self.taken.append(write)
        self._answers.append((write.answer, outcome))

    def conclude(self, delta: Delta) -> None:
        """Make this the last batch of its store: only a commit that names the store's successor.

        The objects are left as they are: nobody goes on from them, unless the commit is withdrawn.
        """
        succession = delta.succession
        assert succession is not None  # noqa: S101 - or the store would go on
        data, key = encode_delta(delta), log_key(delta.commit.revision)
        self._writes = {key: Write(key, data)}
        self.commits.append(Commit(delta, data))
        self.head = Head(
            succession.incarnation, delta.commit.term, delta.commit.revision, succession.heir
        )

    def compares(self) -> list[Compare]:
        """What has to hold for the transaction: our head, and none of the requests done before."""
        return [Compare(HEAD, encode_head(self.before)), *self._compares.values()]

    def writes(self) -> list[Write]:
        """What the transaction writes."""
        return [Write(HEAD, encode_head(self.head)), *self._writes.values()]

    def tell(self, failure: PoolError | None = None) -> None:
        """Answer the callers that have no answer yet: with their outcomes or with `failure`.

        What was committed before this batch and only asked about again is true whatever happens.
        """
        for answer, outcome in self._answers:
            if failure is not None and not self._was_known(outcome):
                _settle(answer, failure)
            else:
                _settle(answer, outcome)

    def refuse_changes(self, refusal: PoolError) -> None:
        """Answer only those whose writes would have changed something."""
        for answer, outcome in self._answers:
            if isinstance(outcome, Outcome) and outcome.delta is not None:
                _settle(answer, refusal)

    def _was_known(self, outcome: Outcome | Exception) -> bool:
        return (
            isinstance(outcome, Outcome)
            and outcome.repeated
            and outcome.revision <= self.before.revision
        )

    def _decided(self, write: PendingWrite) -> Outcome:
        state, request, record = self.state, write.request, None
        revision = state.revision + 1
        if request is not None:
            first = executed(state, request)
            if first is not None:
                return Outcome(first.revision, None, repeated=True)
            record = RequestRecord(request.id, request.payload_hash, revision)
        decision = write.decide(state)
        if not decision.changes and record is None:
            return Outcome(state.revision, None, decision.result)
        delta = Delta(
            incarnation=state.incarnation.uuid,
            commit=CommitId(self.head.term, revision),
            predecessor=state.last,
            changes=decision.changes,
            request=record,
        )
        data = self._taken(delta)
        return Outcome(revision, delta, decision.result, data)

    def _taken(self, delta: Delta) -> bytes:
        """Put a commit into the batch; it serialized."""
        data = encode_delta(delta)
        if len(data) > BATCH_BYTES:
            problem = f"{len(data)} bytes of changes, {BATCH_BYTES} are allowed"
            raise PoolError(Reason.REQUEST_TOO_LARGE, problem=problem)
        after = apply(self.state, delta)
        writes = commit_writes(self.state, after, delta, data)
        # From here on nothing fails: a write is in the batch wholly or not at all.
        self._writes |= writes
        if delta.request is not None:
            key = request_key(delta.request.id)
            self._compares[key] = Compare(key, None)
        self.commits.append(Commit(delta, data))
        self._bytes += len(data)
        self.state = after
        self.head = replace(self.head, revision=delta.commit.revision)
        return data


def _settle(answer: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    # Done: the caller was cancelled, or has been told something more precise already.
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
