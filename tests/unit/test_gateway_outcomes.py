"""What the gateway says of a call that it passed on and that came back without an answer."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from poolcore.errors import PoolError, Reason
from poolcore.wire.status import error_from_rpc, status_of
from poolmanager.v1 import pool_service_pb2 as pb
from poolmember.gateway import Gateway, Upstream
from poolmember.parts import handlers_while_starting

WRITE = "/poolmanager.v1.PoolService/UpdatePool"
READ = "/poolmanager.v1.PoolService/GetPool"


class Channel:
    """A channel on which every call ends like this."""

    def __init__(self, end: BaseException, *, connected: bool = True) -> None:
        self.end = end
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


class Context:
    """As much of gRPC's context as the gateway uses."""

    def time_remaining(self) -> float:
        return 1.0

    async def abort(self, code: Any, text: str, metadata: Any = ()) -> None:
        raise failure(code, text, metadata)


class Details:
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


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
