"""What the gateway says of a call that it passed on and that came back without an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest

from poolcore.errors import PoolError, Reason
from poolcore.wire.status import error_from_rpc, status_of
from poolmanager.v1 import pool_service_pb2 as pb
from poolmaster.decide.if_lost import last_known
from poolmaster.service.api import replica_handlers
from poolmaster.service.foresight import Sources
from poolmaster.service.reads import View
from poolmember.gateway import FORWARDED, Gateway, Upstream
from poolmember.parts import handlers_while_starting
from support.small_pool import small_pool

WRITE = "/poolmanager.v1.PoolService/UpdatePool"
READ = "/poolmanager.v1.PoolService/GetPool"
DIFFERENCE = "/poolmanager.v1.PoolService/GetDifference"


class Channel:
    """A channel on which every call ends like this."""

    def __init__(
        self, end: BaseException, *, connected: bool = True, before: tuple[bytes, ...] = ()
    ) -> None:
        self.end = end
        self.before = before
        """What a stream tells before it ends."""
        self.connected = connected
        self.sent = 0

    def get_state(self) -> grpc.ChannelConnectivity:
        ready = grpc.ChannelConnectivity.READY
        return ready if self.connected else grpc.ChannelConnectivity.CONNECTING

    def unary_unary(self, path: str) -> Any:
        async def call(request: bytes, **_: Any) -> bytes:
            self.sent += 1
            raise self.end

        return call

    def unary_stream(self, path: str) -> Any:
        async def call(request: bytes, **_: Any) -> AsyncIterator[bytes]:
            for response in self.before:
                yield response
            raise self.end

        return call


class Context:
    """As much of gRPC's context as the gateway uses."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    async def write(self, response: bytes) -> None:
        self.written.append(response)

    def time_remaining(self) -> float:
        return 1.0

    async def abort(self, code: Any, text: str, metadata: Any = ()) -> None:
        raise failure(code, text, metadata)


class Details:
    def __init__(self, method: str, *, passed_on: bool = False) -> None:
        self.method = method
        self.invocation_metadata = ((FORWARDED, "1"),) if passed_on else ()


def failure(code: Any, text: str = "torn", metadata: Any = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details=text
    )


async def told(channel: Channel, path: str, request: Any) -> PoolError:
    """The error that the caller of a host gets whose master is behind the channel."""
    gateway = Gateway()
    upstream = Upstream("10.0.0.1:7443", channel)  # type: ignore[arg-type]
    gateway.pass_on(upstream, handlers_while_starting("ignite"))
    handler = gateway.service(Details(path))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await handler.unary_unary(request.SerializeToString(), Context())
    return error_from_rpc(error.value)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"])
async def test_a_write_without_an_answer_is_unknown_never_failed(code: str) -> None:
    channel = Channel(failure(grpc.StatusCode[code]))
    assert (await told(channel, WRITE, pb.UpdatePoolRequest())).reason is Reason.OUTCOME_UNKNOWN
    assert channel.sent == 1, "it is not repeated on its own"


@pytest.mark.parametrize("reason", [Reason.INTERNAL_ERROR, Reason.NO_MASTER, Reason.HOST_OFFLINE])
async def test_what_the_master_answers_is_passed_back_as_it_is(reason: Reason) -> None:
    error = PoolError(reason, host="phantom", problem="p", incident="i")
    channel = Channel(failure(*status_of(error)))
    answer = await told(channel, WRITE, pb.UpdatePoolRequest())
    assert (answer.reason, answer.params) == (reason, error.params)


async def test_a_write_that_cannot_be_sent_has_certainly_not_been_made() -> None:
    channel = Channel(failure(grpc.StatusCode.UNAVAILABLE), connected=False)
    assert (await told(channel, WRITE, pb.UpdatePoolRequest())).reason is Reason.NO_MASTER
    assert channel.sent == 0


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL"])
async def test_a_read_without_an_answer_is_answered_here(code: str) -> None:
    answer = await told(Channel(failure(grpc.StatusCode[code])), READ, pb.GetPoolRequest())
    # This host has nothing to answer from yet, and says so itself.
    assert (answer.reason, answer.params["host"]) == (Reason.NO_MASTER, "ignite")


@pytest.mark.parametrize("reason", [Reason.NO_MASTER, Reason.HOST_IS_SLAVE])
async def test_a_read_that_the_former_master_refuses_is_answered_here(reason: Reason) -> None:
    refused = PoolError(reason, host="phantom", problem="p", master="phantom")
    answer = await told(Channel(failure(*status_of(refused))), READ, pb.GetPoolRequest())
    assert (answer.reason, answer.params["host"]) == (Reason.NO_MASTER, "ignite")


async def test_a_former_master_answers_no_read_that_another_host_was_asked() -> None:
    gateway = Gateway()
    gateway.serve_locally(of_a_replica(), leads=True)
    read = gateway.service(Details(READ, passed_on=True)).unary_unary
    assert (await read(pb.GetPoolRequest(), Context())).freshness.stale
    gateway.serve_locally(of_a_replica())
    read = gateway.service(Details(READ, passed_on=True)).unary_unary
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await read(pb.GetPoolRequest(), Context())
    assert error_from_rpc(error.value).reason is Reason.NO_MASTER


def of_a_replica() -> Any:
    """What answers at a host with a replica, but no history."""

    async def read() -> View:
        return View(small_pool(), stale=True)

    async def no_history(after: int, limit: int) -> list[Any]:
        return []

    def refuse() -> PoolError:
        return PoolError(Reason.NO_MASTER, host="ignite", problem="p")

    sources = Sources(partial(last_known, shared_store=False), no_history)
    return replica_handlers(read, refuse, refuse, sources, host="ignite")


async def streamed(channel: Channel) -> list[pb.GetDifferenceResponse]:
    """What a host with a replica, but no history, tells of an empty difference."""
    gateway, context = Gateway(), Context()
    upstream = Upstream("10.0.0.1:7443", channel)  # type: ignore[arg-type]
    gateway.pass_on(upstream, of_a_replica())
    handler = gateway.service(Details(DIFFERENCE))
    request = pb.GetDifferenceRequest(since_revision=10)
    await handler.unary_stream(request.SerializeToString(), context)
    return [pb.GetDifferenceResponse.FromString(data) for data in context.written]


async def test_a_streamed_read_that_has_not_begun_is_answered_here() -> None:
    (told,) = await streamed(Channel(failure(grpc.StatusCode.UNAVAILABLE)))
    assert told.span.freshness.stale
    assert told.span.until_revision == 10


async def test_a_streamed_read_that_has_begun_is_not_mixed_with_another_answer() -> None:
    span = pb.GetDifferenceResponse(span=pb.DifferenceSpan(since_revision=10))
    begun = Channel(failure(grpc.StatusCode.UNAVAILABLE), before=(span.SerializeToString(),))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await streamed(begun)
    assert error_from_rpc(error.value).reason is Reason.NO_MASTER
