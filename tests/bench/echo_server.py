"""A gRPC server that answers each call with what it was sent. Prints its port, ends with stdin."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

from poolcore.wire.channels import SERVER_OPTIONS


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(_answer)


async def _answer(request: bytes, _: Any) -> bytes:
    return request


async def _serve() -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((_Echo(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve())
