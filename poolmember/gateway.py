"""The gateway: every API call works at every host.

The host that is master answers; any other passes the call on to the master, unary or streaming,
with what is left of its deadline, and passes the answer or the error back. A host without a master
answers reads from its replica, marked as stale, and refuses the rest.

A call is passed on once: a host that gets one and is not the master says so. It neither passes it
further nor, but for streams, answers a read from its own replica: the host that was asked has one,
too, and what one host shows never goes back. A write whose connection broke after it was sent ends
as *outcome unknown*, never as failed. Where hosts elect their master, a write that certainly was
not done for want of one is held for a moment and goes to the next.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from poolcore.errors import PoolError, Reason
from poolcore.wire.serving import Context, Handlers, abort
from poolcore.wire.status import DETAILS_KEY, error_from_rpc
from poolmaster.service.api import METHODS, SESSION, not_master

FORWARDED = "x-poolmanager-forwarded"
_READS = ("Get", "List", "Check")
MARGIN = 0.2
"""Before a held call's deadline: so much is left to tell its caller why it was not done."""
NOT_DONE = frozenset({Reason.NO_MASTER, Reason.HOST_IS_SLAVE})
"""For want of a master; another one may do it."""
LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Without details of ours, nobody knows what became of the call."""


def _is_read(path: str) -> bool:
    return path.rpartition("/")[2].startswith(_READS)


@dataclass(frozen=True, slots=True)
class Upstream:
    """The master this host has a session with."""

    endpoint: str
    channel: grpc.aio.Channel


class Gateway(grpc.GenericRpcHandler):
    """Routes the API's calls; which way is switched as the host's role changes."""

    def __init__(self) -> None:
        self._local: Handlers = {}
        self._leads = False
        self._upstream: Upstream | None = None
        self._changed = asyncio.Event()
        self._lost_at: float | None = None
        """On the loop's clock: since when this host knows of no master; none: it knows one."""
        self.hold_seconds = 0.0
        """How long after the last master was lost a write waits for the next one."""

    def serve_locally(self, handlers: Handlers, *, leads: bool = False) -> None:
        """Answer every call here: as the master if this host `leads`, or as a host without one."""
        self._local = handlers
        self._leads = leads
        self._upstream = None
        if leads:
            self._lost_at = None
        elif self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()
        self._ring()

    def pass_on(self, upstream: Upstream, fallback: Handlers) -> None:
        """Pass calls on to the master; `fallback` answers reads when it does not."""
        self._local = fallback
        self._leads = False
        self._upstream = upstream
        self._lost_at = None
        self._ring()

    def _ring(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call, none for a method that is not of this API."""
        path: str = handler_call_details.method
        method = METHODS.get(path)
        if method is None:
            return None
        upstream = self._upstream
        if self.hold_seconds and self._may_be_held(handler_call_details, method):
            return grpc.unary_unary_rpc_method_handler(self._held(path))
        metadata = handler_call_details.invocation_metadata or ()
        passed_on = any(key == FORWARDED for key, _ in metadata)
        if upstream is None:
            if passed_on and not self._leads and not method.server_streaming:
                return _refusal(method, _no_master())
            return self._local.get(path) or _refusal(method, _starting())
        if path == SESSION or passed_on:
            return _refusal(method, not_master(upstream.endpoint))
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(_stream(upstream, path, self._local[path]))
        return grpc.unary_unary_rpc_method_handler(_unary(upstream, path, self._local[path]))

    def _may_be_held(self, details: Any, method: Any) -> bool:
        forwarded = any(key == FORWARDED for key, _ in details.invocation_metadata or ())
        streams = method.server_streaming or method.client_streaming
        return not (streams or forwarded or _is_read(details.method)) and bool(self._local)

    def _held(self, path: str) -> Callable[[bytes, Context], Awaitable[bytes | None]]:
        async def handle(request: bytes, context: Context) -> bytes | None:
            loop, left = asyncio.get_running_loop(), context.time_remaining()
            began = loop.time()
            until = math.inf if left is None else began + left - MARGIN
            while True:
                changed, upstream = self._changed, self._upstream
                try:
                    if upstream is None:
                        return await _answered_here(self._local[path], request, context)
                    return await _unary(upstream, path, self._local[path])(
                        request, _Attempt(context)
                    )
                except _Refused as refusal:
                    # Without a master for so long, another one does not come by itself.
                    since = began if self._lost_at is None else self._lost_at
                    seconds = min(until, since + self.hold_seconds) - loop.time()
                    if refusal.reason in NOT_DONE and await _rings(changed, seconds):
                        continue
                    await context.abort(refusal.code, refusal.text, refusal.metadata)
                return None

        return handle


class _Refused(Exception):
    """A call was refused, and its caller has not been told yet."""

    def __init__(self, code: Any, text: str, metadata: Any) -> None:
        super().__init__(text)
        self.code, self.text, self.metadata = code, text, metadata

    @property
    def reason(self) -> Reason | None:
        """Why, by the catalog of errors."""
        none = grpc.aio.Metadata()
        told = grpc.aio.AioRpcError(
            self.code, none, grpc.aio.Metadata(*self.metadata), details=self.text
        )
        return error_from_rpc(told).reason


class _Attempt:
    """The context of one attempt to have a call answered; a refusal goes to who made it."""

    def __init__(self, context: Context) -> None:
        self.time_remaining = context.time_remaining

    async def abort(self, code: Any, text: str, metadata: Any = ()) -> None:
        raise _Refused(code, text, metadata)


async def _answered_here(handler: Any, request: bytes, context: Context) -> bytes:
    message = handler.request_deserializer(request)
    response = await handler.unary_unary(message, _Attempt(context))
    answer: bytes = handler.response_serializer(response)
    return answer


async def _rings(changed: asyncio.Event, seconds: float) -> bool:
    """Whether there is another way for calls, within so long."""
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return False
    return True


def _starting() -> PoolError:
    return PoolError(Reason.NO_MASTER, host="this host", problem="its daemon is just starting")


def _no_master() -> PoolError:
    problem = "it is not the master any more"
    return PoolError(
        Reason.NO_MASTER, host="the host that was taken for the master", problem=problem
    )


def _refusal(method: Any, error: PoolError) -> Any:
    async def refuse(_: Any, context: Context) -> None:
        await abort(context, error)

    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)


def _unary(
    upstream: Upstream, path: str, fallback: Any
) -> Callable[[bytes, Context], Awaitable[bytes | None]]:
    call: Any = upstream.channel.unary_unary(path)

    async def handle(request: bytes, context: Context) -> bytes | None:
        sent = False
        try:
            # The session with the master is on this channel. Without a connection there is none,
            # and what would wait for one could not be told from what was sent and got lost.
            if upstream.channel.get_state() is grpc.ChannelConnectivity.READY:
                passing = call(
                    request, timeout=context.time_remaining(), metadata=((FORWARDED, "1"),)
                )
                sent = True
                passed: bytes = await passing
                return passed
        except grpc.aio.AioRpcError as error:
            not_done = _is_read(path) and error_from_rpc(error).reason in NOT_DONE
            if not (not_done or _is_connection_loss(error)):
                await _pass_back(context, error)
                return None
        except grpc.aio.UsageError:
            # It was being closed at that moment.
            sent = False
        except asyncio.CancelledError:
            if _caller_has_gone():
                raise
        if _is_read(path):
            # The handlers take messages; this one was not decoded yet.
            message = fallback.request_deserializer(request)
            response = await fallback.unary_unary(message, context)
            own: bytes = fallback.response_serializer(response)
            return own
        if sent:
            await abort(context, PoolError(Reason.OUTCOME_UNKNOWN))
        else:
            problem = f"{upstream.endpoint} does not answer"
            await abort(context, PoolError(Reason.NO_MASTER, host="this host", problem=problem))
        return None

    return handle


def _stream(
    upstream: Upstream, path: str, fallback: Any
) -> Callable[[bytes, Context], Awaitable[None]]:
    call: Any = upstream.channel.unary_stream(path)

    async def handle(request: bytes, context: Context) -> None:
        begun = False
        try:
            async for response in call(
                request, timeout=context.time_remaining(), metadata=((FORWARDED, "1"),)
            ):
                begun = True
                await context.write(response)
        except grpc.aio.AioRpcError as error:
            if not _is_connection_loss(error):
                await _pass_back(context, error)
                return
        except grpc.aio.UsageError:
            # The channel was closed between the choice of this handler and now.
            pass
        except asyncio.CancelledError:
            if _caller_has_gone():
                raise
        else:
            return
        if _is_read(path) and not begun:
            await fallback.unary_stream(
                fallback.request_deserializer(request), _Encoding(context, fallback)
            )
            return
        problem = f"the connection to {upstream.endpoint} broke"
        await abort(context, PoolError(Reason.NO_MASTER, host="this host", problem=problem))

    return handle


class _Encoding:
    """A call's context that takes messages, where the call itself takes bytes."""

    def __init__(self, context: Context, handler: Any) -> None:
        self._context = context
        self._handler = handler

    async def write(self, message: Any) -> None:
        await self._context.write(self._handler.response_serializer(message))

    async def abort(self, *error: Any) -> None:
        await self._context.abort(*error)


def _caller_has_gone() -> bool:
    """Why a call that was passed on is cancelled: its caller has gone, rather than our channel.

    When the session with the master ends, its channel is closed under the calls that use it.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_connection_loss(error: grpc.aio.AioRpcError) -> bool:
    """Whether the call was lost on its way, rather than answered by the master.

    `CANCELLED` is what becomes of a call whose channel is closed, or whose server ends, under it;
    `INTERNAL` and `UNKNOWN` of one whose stream is torn down. A master's own errors have details.
    """
    answered = any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())
    return error.code() in LOST and not answered


async def _pass_back(context: Context, error: grpc.aio.AioRpcError) -> None:
    details = tuple((k, v) for k, v in error.trailing_metadata() or () if k == DETAILS_KEY)
    await context.abort(error.code(), error.details() or "", details)
