"""The simulated network's channels do what the client library and the gateway expect of gRPC's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest

from poolcore.clock import Clock
from sim.channel import MemoryChannel
from sim.machine import simulate
from sim.network import BREAKS_AFTER_SECONDS, Network
from support.virtual_clock import VirtualClock

CLIENT, SERVER = "client", "server"
ECHO, HANG, COUNT, ECHOES, REFUSE = "/echo", "/hang", "/count", "/echoes", "/refuse"
READY = grpc.ChannelConnectivity.READY


class Server:
    """Answers a few methods with bytes."""

    def __init__(self, clock: Clock) -> None:
        self.over = False
        self.frozen = False
        self.cancelled = 0
        self._clock = clock
        self._tasks: list[asyncio.Task[Any]] = []

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        return task

    def handler(self, details: Any) -> Any:
        unary = grpc.unary_unary_rpc_method_handler
        found: dict[str, Any] = {
            ECHO: unary(self._echo),
            HANG: unary(self._hang),
            REFUSE: unary(self._refuse),
            COUNT: grpc.unary_stream_rpc_method_handler(self._count),
            ECHOES: grpc.stream_stream_rpc_method_handler(self._echoes),
        }
        return found.get(details.method)

    async def _echo(self, request: bytes, _: Any) -> bytes:
        return request

    async def _hang(self, _: bytes, __: Any) -> bytes:
        try:
            await self._clock.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b""

    async def _refuse(self, _: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.ABORTED, "no", (("why", "because"),))

    async def _count(self, _: bytes, context: Any) -> None:
        for number in range(1000):
            await self._clock.sleep(0.1)
            await context.write(str(number).encode())

    async def _echoes(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async for request in requests:
            await context.write(request)


Scenario = Callable[[VirtualClock, Network, Server, MemoryChannel], Coroutine[Any, Any, None]]


def played(scenario: Scenario) -> None:
    async def main(clock: VirtualClock) -> None:
        network, server = Network("channel", clock), Server(clock)
        network.listening[SERVER] = server
        channel = MemoryChannel(
            network, CLIENT, SERVER, begin=server.begin, on_close=lambda _: None
        )
        async with channel:
            await scenario(clock, network, server, channel)

    simulate("channel", main)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value


def test_calls_wait_for_the_connection_and_are_answered() -> None:
    async def scenario(_: Any, network: Network, __: Any, channel: MemoryChannel) -> None:
        assert await channel.unary_unary(ECHO)(b"hello", timeout=1.0) == b"hello"
        assert channel.get_state() is READY
        error = await failure(channel.unary_unary("/unknown")(b""))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        error = await failure(channel.unary_unary(REFUSE)(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "no")
        assert list(error.trailing_metadata()) == [("why", "because")]

    played(scenario)


def test_where_nobody_listens_calls_fail_until_somebody_does() -> None:
    async def scenario(
        clock: VirtualClock, network: Network, server: Server, channel: MemoryChannel
    ) -> None:
        del network.listening[SERVER]
        for _ in range(2):
            error = await failure(channel.unary_unary(ECHO)(b"", timeout=1.0))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        network.listening[SERVER] = server
        await channel.channel_ready()
        assert await channel.unary_unary(ECHO)(b"there") == b"there"

    played(scenario)


def test_a_deadline_ends_a_call_at_both_ends() -> None:
    async def scenario(
        clock: VirtualClock, _: Network, server: Server, channel: MemoryChannel
    ) -> None:
        error = await failure(channel.unary_unary(HANG)(b"", timeout=2.0))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert clock.monotonic() == 2.0
        await clock.sleep(0.1)
        assert server.cancelled == 1

    played(scenario)


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_who_gives_a_call_up_or_closes_the_channel_gets_it_cancelled(how: str) -> None:
    async def scenario(
        clock: VirtualClock, _: Network, server: Server, channel: MemoryChannel
    ) -> None:
        await channel.channel_ready()
        call = channel.unary_unary(HANG)(b"")
        await clock.sleep(1.0)
        if how == "cancel":
            assert call.cancel()
        else:
            await channel.close()
            with pytest.raises(grpc.aio.UsageError):
                channel.unary_unary(ECHO)(b"")
        with pytest.raises(asyncio.CancelledError):
            await call
        await clock.sleep(0.1)
        assert server.cancelled == 1

    played(scenario)


def test_a_connection_that_breaks_ends_what_is_under_way_and_comes_back() -> None:
    async def scenario(
        clock: VirtualClock, network: Network, server: Server, channel: MemoryChannel
    ) -> None:
        stream = channel.unary_stream(COUNT)(b"")
        assert await stream.read() == b"0"
        network.cut(SERVER, CLIENT, one_way=True)
        waiting = channel.unary_unary(HANG)(b"")
        cut = clock.monotonic()
        assert (await failure(waiting)).code() is grpc.StatusCode.UNAVAILABLE
        assert clock.monotonic() == pytest.approx(cut + BREAKS_AFTER_SECONDS)
        await clock.sleep(0.1)
        assert server.cancelled == 1
        error = await failure(stream.read())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        network.heal()
        assert await channel.unary_unary(ECHO)(b"back", timeout=5.0) == b"back"

    played(scenario)


def test_streams_go_both_ways_in_order() -> None:
    async def scenario(*world: Any) -> None:
        async def requests() -> AsyncIterator[bytes]:
            for number in range(100):
                yield str(number).encode()

        channel: MemoryChannel = world[3]
        echoes = [message async for message in channel.stream_stream(ECHOES)(requests())]
        assert echoes == [str(number).encode() for number in range(100)]

    played(scenario)


def test_a_lost_message_ends_a_stream_and_leaves_a_call_without_an_answer() -> None:
    async def scenario(
        clock: VirtualClock, network: Network, _: Server, channel: MemoryChannel
    ) -> None:
        stream = channel.unary_stream(COUNT)(b"")
        assert await stream.read() == b"0"
        network.losses = 1.0
        assert (await failure(stream.read())).code() is grpc.StatusCode.UNAVAILABLE
        lost = channel.unary_unary(ECHO)(b"", timeout=3.0)
        assert (await failure(lost)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        network.losses = 0.0
        assert await channel.unary_unary(ECHO)(b"again", timeout=3.0) == b"again"

    played(scenario)
