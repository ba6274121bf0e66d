"""gRPC channels over the simulated network.

What is above a channel is the product's own: the generated stubs, the client library, the gateway
and the members' sessions. A channel promises them what gRPC's does: calls wait while it connects
and fail at once while it cannot; a call under way fails with UNAVAILABLE when the connection
breaks, and is cancelled when the channel is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import ChannelConnectivity as State

from sim.network import Network, Wire
from sim.served import WINDOW, Details, Metadata, ServedCall, Status

FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.05, 1.0
"""As `poolcore.wire.channels` sets them up."""
LEAST_SECONDS = 1e-6
"""A loop's timers go off a little early: who asks again and again until a deadline must not be
answered without any time going by."""
BROKE = Status(grpc.StatusCode.UNAVAILABLE, "the connection broke")


Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]
"""How a call's requests become bytes, and bytes its answers."""


class MemoryChannel(grpc.aio.Channel):
    """See the module's docstring. `begin` runs what the channel does by itself."""

    def __init__(
        self,
        network: Network,
        source: str,
        target: str,
        *,
        begin: Callable[[Any], asyncio.Task[Any]],
        on_close: Callable[[MemoryChannel], None],
    ) -> None:
        self._network = network
        self._ends = (source, target)
        self._begin = begin
        self._on_close = on_close
        self._state = State.IDLE
        self._changed = asyncio.Event()
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._calls: dict[Call, None] = {}
        self._waiting: list[Call] = []

    # -- the connection ---------------------------------------------------------------------------

    def get_state(self, try_to_connect: bool = False) -> State:
        if try_to_connect:
            self._connect()
        return self._state

    async def wait_for_state_change(self, last_observed_state: State) -> None:
        while self._state is last_observed_state:
            await self._changed.wait()

    async def channel_ready(self) -> None:
        while (state := self.get_state(try_to_connect=True)) is not State.READY:
            await self.wait_for_state_change(state)

    def _connect(self) -> None:
        if self._state is State.IDLE:
            self._turn(State.CONNECTING)
            self._connecting = self._begin(self._keep_trying())

    async def _keep_trying(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while isinstance(found := await self._network.connected(*self._ends), str):
            self._turn(State.TRANSIENT_FAILURE)
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                call.end(Status(grpc.StatusCode.UNAVAILABLE, found))
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
        self._wire = found
        found.on_break[self._broke] = None
        self._turn(State.READY)
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call.go(found)

    def _broke(self) -> None:
        self._wire = None
        if self._state is not State.SHUTDOWN:
            self._turn(State.IDLE)
        for call in tuple(self._calls):
            call.end(BROKE)

    def _turn(self, state: State) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()

    # -- its end ----------------------------------------------------------------------------------

    async def close(self, grace: float | None = None) -> None:
        if self._state is State.SHUTDOWN:
            return
        self._turn(State.SHUTDOWN)
        if grace and self._calls:
            await asyncio.wait([call.over for call in self._calls], timeout=grace)
        self.abandon()

    def abandon(self) -> None:
        """Whoever had opened it closes it, or is no more."""
        self._turn(State.SHUTDOWN)
        if self._connecting is not None:
            self._connecting.cancel()
        for call in tuple(self._calls):
            call.cancel()
        if self._wire is not None:
            self._wire.on_break.pop(self._broke, None)
            self._wire.there.put(self._wire.break_)
        self._on_close(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    # -- calls ------------------------------------------------------------------------------------

    def unary_unary(self, method: str, *serializers: Any, **options: Any) -> Any:
        return partial(self._call, UnaryCall, method, _codec(serializers, options))

    def unary_stream(self, method: str, *serializers: Any, **options: Any) -> Any:
        return partial(self._call, StreamCall, method, _codec(serializers, options))

    def stream_stream(self, method: str, *serializers: Any, **options: Any) -> Any:
        return partial(self._call, BothWaysCall, method, _codec(serializers, options))

    def stream_unary(self, method: str, *serializers: Any, **options: Any) -> Any:
        raise NotImplementedError(method)

    def _call(
        self,
        kind: type[Call],
        method: str,
        codec: Codec,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Any:
        if self._state is State.SHUTDOWN:
            raise grpc.aio.UsageError("Channel is closed.")
        call = kind(Details(method, tuple(metadata)), request, codec, timeout)
        self._calls[call] = None
        call.over.add_done_callback(lambda _: self._calls.pop(call, None))
        self._connect()
        if self._wire is not None:
            call.go(self._wire)
        elif self._state is State.TRANSIENT_FAILURE:
            call.end(Status(grpc.StatusCode.UNAVAILABLE, "no connection"))
        else:
            self._waiting.append(call)
        return call


class Call:
    """A call as its caller sees it."""

    streams = False

    def __init__(
        self,
        details: Details,
        request: Any,
        codec: Codec,
        seconds: float | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = loop.create_future()
        """Done when the call has ended."""
        self.lost = False
        """Whether a message of it, or of its answer, never arrives."""
        self._details = details
        self._request = request
        self._encode, self._decode = codec
        self._until = None if seconds is None else loop.time() + max(seconds, LEAST_SECONDS)
        self._timer = None
        if self._until is not None:
            late = Status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            self._timer = loop.call_at(self._until, self.end, late)
        self._wire: Wire | None = None
        self._served: ServedCall | None = None
        self._status: Status | None = None

    def go(self, wire: Wire) -> None:
        """The connection is up: send what is to be sent."""
        if self.over.done():
            return
        self._wire = wire
        self._served = ServedCall(
            wire, self._details, self, until=self._until, streams=self.streams
        )
        self._send_request(self._served)

    def _send_request(self, served: ServedCall) -> None:
        self._send(served.begin, self._encode(self._request))

    def _send(self, arrives: Callable[..., None], *what: Any) -> None:
        assert self._wire is not None
        if not self._wire.loses():
            self._wire.there.put(arrives, *what)
            return
        self.lost = True
        if self.streams:
            self._wire.break_()

    def take(self, message: bytes) -> None:
        """A message of the answer has arrived."""
        raise NotImplementedError

    def end(self, status: Status) -> None:
        """The call has ended."""
        if not self.over.done():
            self._finish(status)
            self._tell(cancelled=False)

    def cancel(self) -> bool:
        """Give it up; whether it had not ended before."""
        if self.over.done():
            return False
        self._finish(Status(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"))
        self._tell(cancelled=True)
        if self._wire is not None and self._served is not None:
            self._wire.there.put(self._served.cancel)
        return True

    def _finish(self, status: Status) -> None:
        self._status = status
        self.over.set_result(None)
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self, *, cancelled: bool) -> None:
        """Tell whoever waits for the call."""
        raise NotImplementedError

    async def room(self) -> None:
        """Return when another message may be sent to the caller."""
        return

    def _error(self) -> grpc.aio.AioRpcError:
        assert self._status is not None
        return grpc.aio.AioRpcError(
            self._status.code,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(*self._status.metadata),
            details=self._status.text,
        )


class UnaryCall(Call):
    """One message there and one back."""

    def __init__(self, *args: Any) -> None:
        self._answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answer.add_done_callback(self._answered)
        super().__init__(*args)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer.__await__()

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled():
            self.cancel()  # whoever awaited it was cancelled
        else:
            answer.exception()  # looked at, whether anybody awaits it or not

    def take(self, message: bytes) -> None:
        if not self.over.done() and not self._answer.done():
            self._finish(Status(grpc.StatusCode.OK))
            self._answer.set_result(self._decode(message))

    def _tell(self, *, cancelled: bool) -> None:
        if cancelled:
            self._answer.cancel()
        elif not self._answer.done():  # else its caller has just been cancelled
            self._answer.set_exception(self._error())


class StreamCall(Call):
    """One message there and a stream of them back."""

    streams = True

    def __init__(self, *args: Any) -> None:
        self._messages: deque[bytes] = deque()
        self._under_way = 0
        self._changed = asyncio.Event()
        super().__init__(*args)

    def take(self, message: bytes) -> None:
        self._messages.append(message)
        self._ring()

    def _tell(self, *, cancelled: bool) -> None:
        if cancelled:
            self._messages.clear()
        self._ring()

    async def room(self) -> None:
        while self._under_way >= WINDOW:
            await self._changed.wait()
        self._under_way += 1

    async def read(self) -> Any:
        """The next message, or EOF."""
        try:
            while not self._messages and not self.over.done():
                await self._changed.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._messages:
            self._under_way -= 1
            message = self._decode(self._messages.popleft())
            self._ring()
            return message
        assert self._status is not None
        if self._status.code is grpc.StatusCode.OK:
            return grpc.aio.EOF
        raise self._error()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def _ring(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class BothWaysCall(StreamCall):
    """A stream of messages there, and one back; without requests its caller writes them."""

    def _send_request(self, served: ServedCall) -> None:
        self._send(served.begin)
        if self._request is None:
            self._ring()
            return
        sending = asyncio.ensure_future(self._send_all(served))  # noqa: TID251 - ends with the call
        self.over.add_done_callback(lambda _: sending.cancel())

    async def write(self, request: Any) -> None:
        """Send a message, when there is a connection; `asyncio.InvalidStateError` after the end."""
        while self._served is None and not self.over.done():
            await self._changed.wait()
        if self._served is None or self.over.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        self._send(self._served.take, self._encode(request))

    async def _send_all(self, served: ServedCall) -> None:
        async for request in self._request:
            self._send(served.take, self._encode(request))
        self._send(served.take, None)


def _codec(positional: tuple[Any, ...], named: dict[str, Any]) -> Codec:
    """Generated stubs name them, whoever passes bytes on gives none."""
    encode, decode = (*positional, None, None)[:2]
    return (
        named.get("request_serializer", encode) or _as_it_is,
        named.get("response_deserializer", decode) or _as_it_is,
    )


def _as_it_is(message: Any) -> Any:
    return message
