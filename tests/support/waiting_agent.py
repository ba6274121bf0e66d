"""A host that is asked for its facts and never answers."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import grpc

from poolcore.wire.channels import SERVER_OPTIONS


class WaitingAgent:
    """Serves at `endpoint`; a context manager.

    `asked` and `dropped` tell that the question has come, and that nobody waits for its answer any
    more.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.asked = asyncio.Event()
        self.dropped = asyncio.Event()
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        facts: Any = grpc.unary_unary_rpc_method_handler(self._wait)
        agent = grpc.method_handlers_generic_handler(
            "poolmanager.v1.AgentService", {"GetFacts": facts}
        )
        self._server.add_generic_rpc_handlers((agent,))
        self._server.add_insecure_port(endpoint)

    async def _wait(self, _: bytes, __: Any) -> bytes:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.dropped.set()
        raise AssertionError("nobody sets an event that nobody has")

    async def __aenter__(self) -> WaitingAgent:
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.stop(grace=None)
