"""A host that is asked for its facts and never answers."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import grpc

from poolcore.wire.channels import SERVER_OPTIONS

WAIT_SECONDS = 20.0


class WaitingAgent:
    """Serves at `endpoint`; a context manager.

    `asked` and `dropped` wait until the question has come, and until nobody waits for its answer
    any more.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._asked = asyncio.Event()
        self._dropped = asyncio.Event()
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        facts: Any = grpc.unary_unary_rpc_method_handler(self._wait)
        agent = grpc.method_handlers_generic_handler(
            "poolmanager.v1.AgentService", {"GetFacts": facts}
        )
        self._server.add_generic_rpc_handlers((agent,))
        self._server.add_insecure_port(endpoint)

    async def asked(self) -> None:
        """Until somebody has asked."""
        await asyncio.wait_for(self._asked.wait(), WAIT_SECONDS)

    async def dropped(self) -> None:
        """Until whoever asked no longer waits."""
        await asyncio.wait_for(self._dropped.wait(), WAIT_SECONDS)

    async def _wait(self, _: bytes, __: Any) -> bytes:
        self._asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._dropped.set()
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
