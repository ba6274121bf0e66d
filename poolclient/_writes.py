"""Administrative writes: the patch, and many of them on one call.

One gRPC call costs both sides about a quarter of a millisecond of Python, a write in a batch much
less. So updates that are asked for at the same time share a call, as commits share a transaction:

* an update goes out at once, together with those that were asked for in the same turn of the
  event loop;
* while `MAX_CALLS` calls are under way, further updates gather, and go together when one ends;
* a call carries at most `MAX_ITEMS` updates and about `MAX_BYTES`.

Each update has its own request id, deadline and outcome. They are not one transaction, and their
order is that of the asking only within a call.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypedDict, TypeVar

from poolclient._deadline import Deadline
from poolclient._errors import (
    Failed,
    NoMaster,
    OutcomeUnknown,
    PoolClientError,
    TimedOut,
    client_error,
)
from poolclient._owned import OwnedTasks
from poolclient._transport import FIRST_PAUSE_SECONDS, NOT_AT_THIS_HOST, UNCERTAIN, Transport
from poolcore import requests
from poolcore.errors import PoolError, Reason
from poolcore.model import Object
from poolmanager.v1 import patch_pb2, pool_service_pb2

T = TypeVar("T", bound=Object)

MAX_ITEMS = 256
MAX_CALLS = 4
MAX_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """A write that was committed: the object as of that commit, and which commit it was."""

    object: T
    revision: int
    incarnation: str


class Changes(TypedDict, total=False):
    """What an administrative write changes; what is left out stays.

    In `other_config`, None removes a key.
    """

    name_label: str
    name_description: str
    add_tags: Iterable[str]
    remove_tags: Iterable[str]
    other_config: Mapping[str, str | None]


def metadata_patch(changes: Changes) -> patch_pb2.MetadataPatch:
    """The message of `changes`."""
    entries = changes.get("other_config", {})
    return patch_pb2.MetadataPatch(
        name_label=changes.get("name_label"),
        name_description=changes.get("name_description"),
        add_tags=sorted(set(changes.get("add_tags", ()))),
        remove_tags=sorted(set(changes.get("remove_tags", ()))),
        set_other_config={k: v for k, v in entries.items() if v is not None},
        remove_other_config=sorted(k for k, v in entries.items() if v is None),
    )


def new_request_id(transport: Transport) -> str:
    """A request id that nobody has used, made at the newest revision this client knows."""
    return requests.request_id(transport.horizon.revision, secrets.token_hex(8))


@dataclass(eq=False, slots=True)
class _Update:
    """One update on its way; `sent` once a call carries it."""

    item: pool_service_pb2.UpdateItem
    deadline: Deadline
    outcome: asyncio.Future[pool_service_pb2.Done]
    sent: bool = False


class UpdateQueue:
    """Gathers updates into `BatchUpdate` calls; see the module's docstring."""

    def __init__(self, transport: Transport, owned: OwnedTasks) -> None:
        self._transport = transport
        self._owned = owned
        self._waiting: deque[_Update] = deque()
        self._calls = 0
        self._flush_due = False

    async def update(
        self, item: pool_service_pb2.UpdateItem, deadline: Deadline, patience_seconds: float
    ) -> pool_service_pb2.Done:
        """Have one update made; repeats it, with its request id, while its outcome is unknown."""
        unknown: OutcomeUnknown | None = None
        patience = Deadline.after(min(patience_seconds, deadline.remaining))
        while True:
            try:
                done = await self._outcome(item, deadline)
            except OutcomeUnknown as error:
                unknown, until = error, deadline
            except NoMaster as error:
                if error.reason not in NOT_AT_THIS_HOST or patience.passed:
                    raise unknown or error from None
                until = patience
            except TimedOut as error:
                # This attempt was never sent; one before it may have been made.
                raise unknown or error from None
            else:
                await self._transport.written(done.incarnation, done.revision, deadline)
                return done
            if unknown and deadline.passed:
                raise unknown
            await asyncio.sleep(min(FIRST_PAUSE_SECONDS, until.remaining))

    async def _outcome(
        self, item: pool_service_pb2.UpdateItem, deadline: Deadline
    ) -> pool_service_pb2.Done:
        loop = asyncio.get_running_loop()
        update = _Update(item, deadline, loop.create_future())
        self._waiting.append(update)
        if not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)
        try:
            async with asyncio.timeout_at(deadline.at):
                return await update.outcome
        except TimeoutError:
            if update.sent:
                raise OutcomeUnknown(Reason.OUTCOME_UNKNOWN, request_id=item.request_id) from None
            raise deadline.error() from None

    def _flush(self) -> None:
        self._flush_due = False
        while self._calls < MAX_CALLS:
            batch = self._next_batch()
            if not batch:
                return
            self._calls += 1
            self._owned.start(self._send(batch))

    def _next_batch(self) -> list[_Update]:
        batch: list[_Update] = []
        size = 0
        while self._waiting and len(batch) < MAX_ITEMS:
            if self._waiting[0].outcome.done():  # its caller has given up
                self._waiting.popleft()
                continue
            size += self._waiting[0].item.ByteSize()
            if batch and size > MAX_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _send(self, batch: list[_Update]) -> None:
        for update in batch:
            update.sent = True
        try:
            response, may_be_made = await self._transport.write_several(
                lambda c: c.pool.BatchUpdate,
                pool_service_pb2.BatchUpdateRequest(items=[u.item for u in batch]),
                max((u.deadline for u in batch), key=lambda d: d.at),
                batch[0].item.request_id,
            )
        except PoolClientError as error:
            for update in batch:
                _fail(update, error)
        except BaseException:
            # The client is closed, or there is a bug: either way nobody may wait for ever.
            for update in batch:
                _fail(update, OutcomeUnknown(Reason.OUTCOME_UNKNOWN, request_id=""))
            raise
        else:
            for update, outcome in zip(batch, response.outcomes, strict=True):
                _settle(update, outcome, may_be_made=may_be_made)
        self._calls -= 1
        self._flush()

    def close(self) -> None:
        """Give up what has not been sent."""
        while self._waiting:
            outcome = self._waiting.popleft().outcome
            if not outcome.done():
                outcome.set_exception(RuntimeError("this client is closed"))


def _fail(update: _Update, error: PoolClientError) -> None:
    if update.outcome.done():
        return
    params = dict(error.params)
    if "request_id" in params:  # the batch's error names the request id of its first update
        params["request_id"] = update.item.request_id
    update.outcome.set_exception(type(error)(error.reason, findings=error.findings, **params))


def _settle(update: _Update, outcome: pool_service_pb2.UpdateOutcome, *, may_be_made: bool) -> None:
    if update.outcome.done():
        return
    if outcome.WhichOneof("outcome") == "done":
        update.outcome.set_result(outcome.done)
        return
    params = {**outcome.error.params}
    try:
        reason = Reason(outcome.error.reason)
    except ValueError:  # of a later release
        failed = Failed(Reason.INTERNAL_ERROR, incident=outcome.error.reason, host="the server")
        update.outcome.set_exception(failed)
        return
    error = client_error(PoolError(reason, findings=(), **params))
    if reason in UNCERTAIN or (may_be_made and reason in NOT_AT_THIS_HOST):
        error = OutcomeUnknown(Reason.OUTCOME_UNKNOWN, request_id=update.item.request_id)
    update.outcome.set_exception(error)
