"""A gRPC server that sends to all its streams as fast as they take it, and does nothing else.

    python -m bench.stream_server SECONDS

Prints its port. Begins with the first line from stdin, ends each stream after so long, and ends
with stdin.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from poolcore.wire.channels import SERVER_OPTIONS

MESSAGE = bytes(300)
"""About as large as a small commit."""


class _Streams(grpc.GenericRpcHandler):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.begun = asyncio.Event()

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(self._stream)

    async def _stream(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        # The first tells the receiver that its stream is there.
        yield MESSAGE
        await self.begun.wait()
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            yield MESSAGE


async def main(seconds: float) -> None:
    streams = _Streams(seconds)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((streams,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    while await asyncio.to_thread(sys.stdin.readline):
        streams.begun.set()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
