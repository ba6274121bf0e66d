"""Calls to a pool at several addresses.

The first address that answers is used, a fresh one preferred over a stale one; when its connection
breaks the others are asked. A read is then repeated; a write is repeated only as it is, with the
same request id, so that it is never made twice (design §4.5). What a call promises to its caller:

* it ends by its deadline;
* a read's `Freshness` never calls older state fresh than this client had seen when it asked;
* a write that raises anything but `OutcomeUnknown` was refused and not made; the one exception is
  the reason `INTERNAL_ERROR`, of which nobody can say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc

from poolclient._connection import Connection, failure
from poolclient._deadline import Deadline
from poolclient._errors import (
    Conflict,
    NoHostAnswers,
    OutcomeUnknown,
    PoolClientError,
    StaleAnswer,
)
from poolclient._freshness import Cursor, Freshness, Horizon
from poolclient._hanging import STATUS_SECONDS, Attended, HostHangs
from poolclient._owned import OwnedTasks
from poolcore.errors import Reason
from poolcore.replica import Head
from poolcore.wire.channels import OpenChannel
from poolcore.wire.codec import from_proto
from poolmanager.v1 import pool_service_pb2

A = TypeVar("A")

CONNECT_SECONDS = 5.0
"""How long an address may take to answer for the first time."""
FRESH_GRACE_SECONDS = 0.3
"""How long to wait for a fresh host after a stale one has answered."""
AGREE_SECONDS = 0.1
"""How long to wait for further hosts to say that they are of the same pool, when it is not known
yet which pool is meant: addresses of two pools are a mistake that must not be left to chance."""
RECONNECT_SECONDS, RECONNECT_ALONE_SECONDS = 0.05, 1.0
"""How long a broken connection may take to come back before all addresses are asked; with others,
and when it is the only one."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
LONGEST_REPEAT_SECONDS = 0.2
"""Between two attempts of a call that hosts answer: a new master may come at any moment."""

UNCERTAIN = frozenset({Reason.OUTCOME_UNKNOWN, Reason.DEADLINE_PASSED})
"""Reasons after which a write may have been made or not."""
NOT_AT_THIS_HOST = frozenset({Reason.NO_MASTER, Reason.HOST_IS_SLAVE})
"""Reasons that say that the call was not served here and may be elsewhere or later."""


Rpc = Callable[[Connection], Callable[..., Awaitable[A]]]
"""Which method of a connection to call, for example `lambda c: c.pool.GetPool`."""


@dataclass(frozen=True, slots=True)
class _Probe:
    connection: Connection
    pool: str
    head: Head | None
    stale: bool


class Transport:
    """See the module's docstring. Belongs to one event loop."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        pool: str,
        require_fresh: bool,
        master_patience_seconds: float,
        on_stale: Callable[[Freshness], None] | None,
        open_channel: OpenChannel,
    ) -> None:
        self.horizon = Horizon()
        self.pool_uuid = pool
        """Hosts of another pool are left alone; empty until a pool is known."""
        self._require_fresh = require_fresh
        self._patience_seconds = master_patience_seconds
        self._on_stale = on_stale
        self._connections = [Connection(address, open_channel) for address in addresses]
        self._addresses = ", ".join(addresses)
        self._current: Connection | None = None
        self._selecting = asyncio.Lock()
        self._reselected_at = 0.0
        self._owned = OwnedTasks()
        self._looking: dict[Connection, asyncio.Task[bool]] = {}
        """Which hosts are just looked at because they may hang."""
        self.closed = False

    @property
    def address(self) -> str:
        """The address in use; empty while there is none."""
        return "" if self._current is None else self._current.address

    async def open(self, deadline: Deadline) -> None:
        """Find a host that answers: one round, then `NoHostAnswers`."""
        self._current = await self._select(deadline)

    async def close(self) -> None:
        """Close every connection; calls under way fail."""
        self.closed = True
        await self._owned.close()
        for connection in self._connections:
            await connection.channel.close()

    # -- choosing a host --------------------------------------------------------------------------

    async def connection(self, deadline: Deadline) -> Connection:
        """The connection to use; looks for a host that answers until the deadline."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            if self.closed:
                raise RuntimeError("this client is closed")
            if self._current is not None:
                return self._current
            try:
                async with self._selecting:
                    if self._current is None:
                        self._current = await self._select(deadline)
            except NoHostAnswers:
                if deadline.remaining <= pause:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def lost(self, connection: Connection) -> None:
        """Take note that a connection has failed: the next call looks for another."""
        if self._current is connection:
            self._current = None

    async def _probe(self, connection: Connection, seconds: float) -> _Probe:
        status = await connection.pool.GetStatus(
            pool_service_pb2.GetStatusRequest(), timeout=seconds
        )
        head = from_proto(status.head) if status.HasField("head") else None
        return _Probe(connection, status.pool_uuid, head, status.freshness.stale)

    async def _select(self, deadline: Deadline) -> Connection:
        """Ask all addresses at once; the first fresh one wins, else the first stale one."""
        seconds = min(deadline.remaining, CONNECT_SECONDS)
        problems: dict[str, PoolClientError] = {}
        found: list[_Probe] = []
        settled_at: float | None = None
        clock = asyncio.get_running_loop().time
        async with OwnedTasks() as owned:
            waiting = {owned.task(self._probe(c, seconds)): c for c in self._connections}
            while waiting and not (self.pool_uuid and any(not p.stale for p in found)):
                left = None if settled_at is None else max(0.0, settled_at - clock())
                done, _ = await asyncio.wait(
                    waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    connection = waiting.pop(task)
                    try:
                        found.append(self._of_this_pool(task.result()))
                    except grpc.aio.AioRpcError as error:
                        problems[connection.address], _ = failure(error, connection)
                    except Conflict as error:
                        problems[connection.address] = error
                if found:
                    fresh = any(not p.stale for p in found)
                    settled_at = clock() + (AGREE_SECONDS if fresh else FRESH_GRACE_SECONDS)
        if not found:
            raise self._none_answers(problems)
        self.pool_uuid = self.pool_uuid or found[0].pool
        for probe in found:
            self._check_pool(probe)
        return self._selected(next((p for p in found if not p.stale), found[0]))

    def _of_this_pool(self, probe: _Probe) -> _Probe:
        self._check_pool(probe)
        return probe

    def _check_pool(self, probe: _Probe) -> None:
        if self.pool_uuid and probe.pool != self.pool_uuid:
            raise Conflict(
                Reason.HOST_OF_ANOTHER_POOL,
                address=probe.connection.address,
                actual=probe.pool,
                expected=self.pool_uuid,
            )

    def _selected(self, probe: _Probe) -> Connection:
        if probe.head is not None:
            self.horizon.learn(probe.head.incarnation)
            if not probe.stale:
                self.horizon.advance(probe.head.incarnation.uuid, probe.head.revision)
        return probe.connection

    def _none_answers(self, problems: dict[str, PoolClientError]) -> PoolClientError:
        silent = {Reason.NO_HOST_ANSWERS, Reason.DEADLINE_PASSED}
        if self.pool_uuid:  # it was a pool's host before: its daemon is just starting
            silent.add(Reason.NOT_A_POOL_HOST)
        if not any(problem.reason in silent for problem in problems.values()):
            return next(iter(problems.values()))
        # The host that is meant may be the one that is silent now and answers next time.
        return self._no_answer(self._addresses)

    # -- calls ------------------------------------------------------------------------------------

    async def read(self, rpc: Rpc[A], request: object, deadline: Deadline) -> tuple[A, Freshness]:
        """Call a method that changes nothing and whose answer carries `freshness`."""
        patience = self._patience(deadline)
        pause = FIRST_PAUSE_SECONDS
        while True:
            asked_at = self.horizon.newest
            connection, answer, _ = await self._call(rpc, request, deadline, request_id=None)
            freshness = await self._judged(connection, answer, asked_at, deadline)
            if not freshness.stale:
                self.horizon.advance(freshness.incarnation, freshness.revision)
            elif await self._found_another(connection, deadline):
                continue
            elif self._require_fresh and patience.remaining > pause:
                await self._look_elsewhere(connection, patience, pause)
                pause = min(2 * pause, LONGEST_REPEAT_SECONDS)
                continue
            elif self._require_fresh:
                raise StaleAnswer(
                    Reason.STALE_ANSWER,
                    revision=str(freshness.revision),
                    age_seconds=freshness.age,
                )
            elif self._on_stale is not None:
                self._on_stale(freshness)
            return answer, freshness

    async def ask(self, rpc: Rpc[A], request: object, deadline: Deadline) -> A:
        """Call a method that changes nothing and whose answer has no freshness."""
        _, answer, _ = await self._call(rpc, request, deadline, request_id=None)
        return answer

    async def write(self, rpc: Rpc[A], request: object, deadline: Deadline, request_id: str) -> A:
        """Call a method that changes something; `OutcomeUnknown` when it may have or not."""
        answer, _ = await self.write_several(rpc, request, deadline, request_id)
        return answer

    async def write_several(
        self, rpc: Rpc[A], request: object, deadline: Deadline, request_id: str
    ) -> tuple[A, bool]:
        """As `write`, for a call that answers for each of several changes by itself.

        Also whether the same had been sent before and may have been made then: of a change that is
        now refused because there is no master it is not known what became of it.
        """
        _, answer, may_be_made = await self._call(rpc, request, deadline, request_id=request_id)
        return answer, may_be_made

    async def written(self, incarnation: str, revision: int, deadline: Deadline) -> None:
        """Take note of a commit of this client's own."""
        if not self.horizon.knows(incarnation):
            # It is made, whether a host can still tell where that incarnation belongs or not; the
            # next answer is asked again.
            with suppress(PoolClientError):
                await self._learn(await self.connection(deadline), deadline)
        self.horizon.advance(incarnation, revision)

    async def _call(
        self, rpc: Rpc[A], request: object, deadline: Deadline, *, request_id: str | None
    ) -> tuple[Connection, A, bool]:
        """Who answered what, and whether it may have been made by an earlier attempt."""
        writes, may_be_made = request_id is not None, False
        patience = self._patience(deadline)
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                connection = await (self._ready if writes else self.connection)(deadline)
            except PoolClientError as error:
                if may_be_made:
                    raise self._unknown(request_id) from error
                raise
            try:
                answer = await self._once(rpc, connection, request, deadline)
                return connection, answer, may_be_made
            except grpc.aio.AioRpcError as error:
                problem, lost = failure(error, connection)
            except HostHangs:
                problem, lost = self._no_answer(connection.address), True
            if lost:
                self.lost(connection)
            uncertain = writes and (lost or problem.reason in UNCERTAIN)
            may_be_made = may_be_made or uncertain
            until: Deadline | None = None
            if lost or uncertain:
                until = deadline
            elif problem.reason in NOT_AT_THIS_HOST:
                until = patience
            if until is None:
                raise deadline.error() if problem.reason is Reason.DEADLINE_PASSED else problem
            # What is asked again right before the deadline would only be left unanswered.
            if until.remaining <= (pause if until is patience else 0.0):
                raise self._unknown(request_id) if may_be_made else problem
            await self._look_elsewhere(connection, until, pause)
            pause = min(2 * pause, LONGEST_REPEAT_SECONDS)

    def _patience(self, deadline: Deadline) -> Deadline:
        """Until when a call waits for a master from now on."""
        return Deadline.after(min(self._patience_seconds, deadline.remaining))

    async def _ready(self, deadline: Deadline) -> Connection:
        """A connection that is up: what fails before that has certainly not reached the host."""
        alone = len(self._connections) == 1
        seconds = RECONNECT_ALONE_SECONDS if alone else RECONNECT_SECONDS
        while True:
            connection = await self.connection(deadline)
            if await connection.ready(min(deadline.remaining, seconds)):
                return connection
            self.lost(connection)
            if deadline.passed:
                raise self._no_answer(self._addresses)

    async def _once(
        self, rpc: Rpc[A], connection: Connection, request: object, deadline: Deadline
    ) -> A:
        call = rpc(connection)(request, timeout=deadline.remaining)
        hangs = partial(self._hangs, connection) if len(self._connections) > 1 else None
        with Attended(call, hangs, self._owned) as attended:
            try:
                return await call
            except asyncio.CancelledError:
                # grpc cancels the calls of a channel that is closed, and we those that we give
                # up; only a cancellation of the caller's own task is one.
                task = asyncio.current_task()
                if task is None or not task.cancelling():
                    if self.closed:
                        raise RuntimeError("this client was closed during a call") from None
                    if attended.given_up:
                        raise HostHangs from None
                raise

    async def _hangs(self, connection: Connection) -> bool:
        """Whether a host hangs; all calls to it that ask at the same time look together."""
        looking = self._looking.get(connection)
        if looking is None:
            looking = self._owned.task(self._does_not_answer(connection))
            self._looking[connection] = looking
            looking.add_done_callback(lambda _: self._looking.pop(connection))
        return await asyncio.shield(looking)

    async def _does_not_answer(self, connection: Connection) -> bool:
        """Whether a host does not say its status now, while another one has a master."""
        async with OwnedTasks() as owned:
            probes = {c: owned.task(self._probe(c, STATUS_SECONDS)) for c in self._connections}
            await asyncio.wait(probes.values())
            if probes.pop(connection).exception() is None:
                return False
            answers = (task.result() for task in probes.values() if task.exception() is None)
            return any(not a.stale and a.pool == self.pool_uuid for a in answers)

    def _no_answer(self, addresses: str) -> NoHostAnswers:
        return NoHostAnswers(Reason.NO_HOST_ANSWERS, addresses=addresses)

    async def _look_elsewhere(
        self, connection: Connection, deadline: Deadline, pause: float
    ) -> None:
        """Before a call is repeated: wait a little, and give another host a chance."""
        await asyncio.sleep(min(pause, deadline.remaining))
        if len(self._connections) > 1:
            self.lost(connection)

    def _unknown(self, request_id: str | None) -> OutcomeUnknown:
        return OutcomeUnknown(Reason.OUTCOME_UNKNOWN, request_id=request_id or "")

    # -- freshness --------------------------------------------------------------------------------

    async def _judged(
        self, connection: Connection, answer: Any, asked_at: Cursor | None, deadline: Deadline
    ) -> Freshness:
        wire = answer.freshness
        if not self.horizon.knows(wire.incarnation):
            await self._learn(connection, deadline)
        freshness = Freshness(
            incarnation=wire.incarnation,
            revision=wire.revision,
            stale=wire.stale,
            age_seconds=wire.age_seconds if wire.HasField("age_seconds") else None,
        )
        return self.horizon.judged(freshness, asked_at=asked_at)

    async def _learn(self, connection: Connection, deadline: Deadline) -> None:
        """Ask a host for the incarnation it is of, and whether it is still of this pool."""
        try:
            probe = await self._probe(connection, deadline.remaining)
        except grpc.aio.AioRpcError as error:
            problem, lost = failure(error, connection)
            if lost:
                self.lost(connection)
            raise problem from None
        self._check_pool(probe)
        if probe.head is not None:
            self.horizon.learn(probe.head.incarnation)

    async def _found_another(self, connection: Connection, deadline: Deadline) -> bool:
        """After a stale answer: whether another address is fresh; looks at most once a second."""
        now = asyncio.get_running_loop().time()
        if len(self._connections) == 1 or now < self._reselected_at + 1.0:
            return False
        self._reselected_at = now
        self.lost(connection)
        return await self.connection(deadline) is not connection
