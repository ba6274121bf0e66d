"""The simulated network: calls and connections between endpoints, each message after a while.

Like TCP, a connection delivers in order or breaks; while its link is cut it stalls, and breaks when
that lasts. What a host that lost its power was about to send is never sent.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolmanager.v1 import member_service_pb2 as pb

T = TypeVar("T")

CONNECT_SECONDS = 3.0
BREAKS_AFTER_SECONDS = 4.0
WINDOW = 32
"""So many messages may be under way on a connection; then its writer waits."""


class Listener(Protocol):
    """Who can be reached at an endpoint."""

    @property
    def over(self) -> bool:
        """Whether it has lost its power."""
        ...

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something there; it ends with the power."""
        ...


def unreachable(endpoint: str, problem: str) -> PoolError:
    """What a caller without an answer is told."""
    return PoolError(Reason.HOST_UNREACHABLE, address=endpoint, problem=problem)


class Network:
    """See the module's docstring. `slow_seconds` is the longest that a message takes."""

    def __init__(self, seed: object, clock: Clock) -> None:
        self.slow_seconds = 0.005
        self.listening: dict[str, Listener] = {}
        self.calls = 0
        self._seed = seed
        self._clock = clock
        self._dice: dict[tuple[str, str], random.Random] = {}
        self._cut: set[frozenset[str]] = set()
        self._changed = asyncio.Event()

    def cut(self, one: str, other: str) -> None:
        """Let nothing through between two endpoints."""
        self._cut.add(frozenset({one, other}))
        self._ring()

    def heal(self, one: str | None = None, other: str | None = None) -> None:
        """Let everything through again between two endpoints, or between all."""
        if one is None or other is None:
            self._cut.clear()
        else:
            self._cut.discard(frozenset({one, other}))
        self._ring()

    def is_cut(self, one: str, other: str) -> bool:
        """Whether nothing gets through between two endpoints."""
        return frozenset({one, other}) in self._cut

    async def until(self, one: str, other: str, *, cut: bool) -> None:
        """Return when the link is cut, or when it is whole."""
        while self.is_cut(one, other) is not cut:
            await self._changed.wait()

    def delay(self, source: str, target: str) -> float:
        """How long the next message takes; each direction of each link has dice of its own."""
        link = (source, target)
        if link not in self._dice:
            self._dice[link] = random.Random(f"{self._seed} {source} to {target}")
        return self._dice[link].uniform(0.0001, self.slow_seconds)

    async def call(
        self,
        source: str,
        target: str,
        work: Callable[[Any], Coroutine[Any, Any, T]],
        *,
        seconds: float,
    ) -> T:
        """Have the listener at `target` do something and give the answer.

        Raises what the work raises, `HOST_UNREACHABLE`, or `DEADLINE_PASSED` after `seconds`. As
        with gRPC, work whose caller has gone is cancelled.
        """
        listener = await self.reach(source, target)
        working = listener.begin(work(listener))
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait([working])
                await self._clock.sleep(self.delay(target, source))
        except TimeoutError:
            raise PoolError(Reason.DEADLINE_PASSED, seconds=f"{seconds:g}") from None
        finally:
            working.cancel()
        if listener.over or working.cancelled() or self.is_cut(source, target):
            raise unreachable(target, "the connection broke")
        return working.result()

    async def reach(self, source: str, target: str) -> Listener:
        """Who listens there, after the way to them."""
        self.calls += 1
        await self._clock.sleep(self.delay(source, target))
        if self.is_cut(source, target):
            await self._clock.sleep(CONNECT_SECONDS)
            raise unreachable(target, "no answer")
        listener = self.listening.get(target)
        if listener is None or listener.over:
            raise unreachable(target, "connection refused")
        return listener

    def _ring(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Pipe:
    """One direction of a connection."""

    def __init__(self, network: Network, clock: Clock, source: str, target: str) -> None:
        self._network = network
        self._clock = clock
        self._link = (source, target)
        self._messages: deque[tuple[float, Any]] = deque()
        self._last_due = 0.0
        self._changed = asyncio.Event()

    async def write(self, message: Any) -> None:
        """Send a message; waits while too many are under way."""
        while len(self._messages) >= WINDOW:
            await self._wait()
        self.close(message)

    def close(self, last: Any) -> None:
        """Send what comes last, without waiting: none, or the error that ended the connection."""
        due = self._clock.monotonic() + self._network.delay(*self._link)
        self._last_due = max(self._last_due, due)
        self._messages.append((self._last_due, last))
        self._ring()

    async def read(self) -> Any:
        """The next message, when it has arrived."""
        while not self._messages:
            await self._wait()
        await self._clock.sleep(self._messages[0][0] - self._clock.monotonic())
        await self._network.until(*self._link, cut=False)
        message = self._messages.popleft()[1]
        self._ring()
        return message

    async def _wait(self) -> None:
        await self._changed.wait()

    def _ring(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


Requests = AsyncIterator[pb.SessionRequest]
Send = Callable[[pb.SessionResponse], Awaitable[None]]
Serve = Callable[[Requests, Send], Awaitable[None]]


class Connection:
    """A session's stream from a member to whoever serves it; carries bytes, as the real one."""

    def __init__(self, network: Network, clock: Clock, source: str, target: str) -> None:
        self._network = network
        self._ends = (source, target)
        self._clock = clock
        self._up = Pipe(network, clock, source, target)
        self._down = Pipe(network, clock, target, source)

    async def carry(self, listener: Listener, serve: Serve, requests: Requests, send: Send) -> None:
        """Until the server ends it, or it breaks (`NO_HOST_ANSWERS`); raises its `PoolError`."""
        serving = listener.begin(self._serve(serve))
        serving.add_done_callback(self._tell_end)
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send(requests))
                watching = tasks.create_task(self._watch())
                while (message := await self._down.read()) is not None:
                    if isinstance(message, BaseException):
                        raise message
                    await send(pb.SessionResponse.FromString(message))
                sending.cancel()
                watching.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            serving.cancel()

    async def _serve(self, serve: Serve) -> None:
        async def requests() -> Requests:
            while (message := await self._up.read()) is not None:
                yield pb.SessionRequest.FromString(message)

        async def send(response: pb.SessionResponse) -> None:
            await self._down.write(response.SerializeToString())

        await serve(requests(), send)

    def _tell_end(self, serving: asyncio.Task[None]) -> None:
        broke = PoolError(Reason.NO_HOST_ANSWERS, addresses=self._ends[1])
        if serving.cancelled():
            self._down.close(broke)
        else:
            error = serving.exception()
            self._down.close(error if isinstance(error, PoolError | None) else broke)

    async def _send(self, requests: Requests) -> None:
        async for request in requests:
            await self._up.write(request.SerializeToString())
        await self._up.write(None)

    async def _watch(self) -> None:
        while True:
            await self._network.until(*self._ends, cut=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(BREAKS_AFTER_SECONDS):
                    await self._network.until(*self._ends, cut=False)
                    continue
            raise PoolError(Reason.NO_HOST_ANSWERS, addresses=self._ends[1])
