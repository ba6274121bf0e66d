"""A call as the host that serves it sees it: gRPC's server without gRPC's network."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from sim.network import Wire

WINDOW = 32
"""So many messages of a stream may be under way or unread; then its writer waits."""

Metadata = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Details:
    """What gRPC tells of a call before it is served."""

    method: str
    invocation_metadata: Metadata


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended."""

    code: grpc.StatusCode
    text: str = ""
    metadata: Metadata = ()


class Caller(Protocol):
    """The other end of a call."""

    lost: bool
    """Whether a message between the two never arrives."""

    def take(self, message: bytes) -> None:
        """A message of the answer has arrived; a call that does not stream ends with it."""
        ...

    def end(self, status: Status) -> None:
        """The call has ended."""
        ...

    async def room(self) -> None:
        """Return when another message may be sent."""
        ...


class ServedCall:
    """One call at the host that serves it. Also the context that its handler is given."""

    def __init__(
        self, wire: Wire, details: Details, caller: Caller, *, until: float | None, streams: bool
    ) -> None:
        self._wire = wire
        self._details = details
        self._caller = caller
        self._until = until
        self._streams = streams
        self._requests: deque[bytes | None] = deque()
        self._arrived = asyncio.Event()
        self._status = Status(grpc.StatusCode.OK)
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    # -- what arrives -----------------------------------------------------------------------------

    def begin(self, *requests: bytes) -> None:
        """Serve it; the caller's first messages have come along."""
        self._requests.extend(requests)
        if not self._wire.listener.over:
            self._wire.on_break[self.cancel] = None
            self._task = self._wire.listener.begin(self._serve())
            self._task.add_done_callback(self._tell_end)

    def take(self, request: bytes | None) -> None:
        """A message of the caller has arrived; none when there will be no more."""
        self._requests.append(request)
        self._arrived.set()

    def cancel(self) -> None:
        """The caller has gone."""
        if self._task is not None:
            self._task.cancel()

    # -- serving ----------------------------------------------------------------------------------

    async def _serve(self) -> None:
        handler = self._wire.listener.handler(self._details)
        if handler is None:
            self._status = Status(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
            return
        timer = None
        if self._until is not None:
            timer = asyncio.get_running_loop().call_at(self._until, self.cancel)
        try:
            await self._answer(handler)
        except grpc.aio.AbortError:
            pass
        finally:
            if timer is not None:
                timer.cancel()

    async def _answer(self, handler: Any) -> None:
        decode = handler.request_deserializer or _as_it_is
        if handler.request_streaming:
            await handler.stream_stream(self._messages(decode), _Writer(self, handler))
            return
        request = decode(await self._request())
        if handler.response_streaming:
            await handler.unary_stream(request, _Writer(self, handler))
            return
        response = await handler.unary_unary(request, self)
        self._send((handler.response_serializer or _as_it_is)(response))

    async def _request(self) -> bytes | None:
        while not self._requests:
            self._arrived.clear()
            await self._arrived.wait()
        return self._requests.popleft()

    async def _messages(self, decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        while (request := await self._request()) is not None:
            yield decode(request)

    def _tell_end(self, task: asyncio.Task[None]) -> None:
        self._wire.on_break.pop(self.cancel, None)
        if self._wire.broken or self._wire.listener.over:
            return
        status = self._status
        if task.cancelled():
            status = Status(grpc.StatusCode.CANCELLED)
        elif task.exception() is not None:
            status = Status(grpc.StatusCode.UNKNOWN, repr(task.exception()))
        if self._streams or status.code is not grpc.StatusCode.OK:
            self._reply(self._caller.end, status)

    def _send(self, message: bytes) -> None:
        self._reply(self._caller.take, message)

    def _reply(self, arrives: Callable[[Any], None], what: Any) -> None:
        if not self._wire.loses(back=True):
            self._wire.back.put(arrives, what)
            return
        self._caller.lost = True
        if self._streams:
            self._wire.break_()

    # -- gRPC's context ---------------------------------------------------------------------------

    def invocation_metadata(self) -> Metadata:
        """What the caller sent along."""
        return self._details.invocation_metadata

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, if there is one."""
        if self._until is None:
            return None
        return max(0.0, self._until - asyncio.get_running_loop().time())

    async def abort(self, code: grpc.StatusCode, text: str = "", metadata: Metadata = ()) -> None:
        """End the call with an error."""
        self._status = Status(code, text, tuple(metadata))
        raise grpc.aio.AbortError(text)

    async def write(self, message: bytes) -> None:
        """Send a message, when there is room for one."""
        await self._caller.room()
        self._send(message)


class _Writer:
    """The context of a handler that streams messages rather than bytes."""

    def __init__(self, call: ServedCall, handler: Any) -> None:
        self._encode = handler.response_serializer or _as_it_is
        self._call = call
        self.abort = call.abort
        self.time_remaining = call.time_remaining

    async def write(self, message: Any) -> None:
        await self._call.write(self._encode(message))


def _as_it_is(message: Any) -> Any:
    return message
