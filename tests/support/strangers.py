"""What may listen at an address besides a host of a pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2_grpc

TURNS = 5

Stranger = Callable[[str], AbstractAsyncContextManager[None]]
"""Listens at a `host:port` while its context lasts."""


@asynccontextmanager
async def nobody(_: str) -> AsyncIterator[None]:
    """Nothing listens."""
    yield


@asynccontextmanager
async def _tcp(
    endpoint: str, answer: Callable[[asyncio.StreamWriter], None]
) -> AsyncIterator[None]:
    writers: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        answer(writer)

    host, _, port = endpoint.rpartition(":")
    server = await asyncio.start_server(accept, host, int(port))
    try:
        yield
    finally:
        server.close()
        # A connection that was accepted a moment ago is known some turns of the loop later.
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for writer in writers:
            writer.close()
        # Before Python 3.12 the server itself does not wait for them.
        await asyncio.gather(*(w.wait_closed() for w in writers), return_exceptions=True)


def web_server(endpoint: str) -> AbstractAsyncContextManager[None]:
    """Answers everything as an HTTP/1.1 server answers what is no HTTP/1.1."""
    bad_request = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(bad_request)
        writer.close()

    return _tcp(endpoint, answer)


def hanging_up(endpoint: str) -> AbstractAsyncContextManager[None]:
    """Closes each connection at once."""
    return _tcp(endpoint, lambda writer: writer.close())


def silent(endpoint: str) -> AbstractAsyncContextManager[None]:
    """Accepts connections and says nothing."""
    return _tcp(endpoint, lambda _: None)


@asynccontextmanager
async def another_grpc_service(endpoint: str) -> AsyncIterator[None]:
    """Speaks gRPC, but offers only a health check."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    server.add_insecure_port(endpoint)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
