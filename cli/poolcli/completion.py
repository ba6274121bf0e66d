"""Names for the shell's completion: quick, and silent when no host answers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

LIMIT_SECONDS = 0.3
CONNECT_SECONDS = 0.1
DEFAULT_PORT = "7443"

Completer = Callable[..., list[tuple[str, str]]]


def completer(noun: str) -> Completer:
    """Completes the names of objects of a kind."""

    def complete(ctx: Any, args: list[str], incomplete: str) -> list[tuple[str, str]]:
        try:
            names = _names(noun, _server(ctx))
        except Exception:
            return []
        fitting = [(name, uuid) for name, uuid in names if name.startswith(incomplete)]
        return fitting or [(uuid, name) for name, uuid in names if uuid.startswith(incomplete)]

    return complete


def _server(ctx: Any) -> str | None:
    while ctx is not None:
        if ctx.params.get("server"):
            return str(ctx.params["server"])
        ctx = ctx.parent
    return None


def _names(noun: str, server: str | None) -> list[tuple[str, str]]:
    from poolcli.session import target

    # A plain connect tells in no time that nobody is there; loading gRPC alone takes longer.
    addresses = [a for a in target(server).addresses if _listens(a)]
    if not addresses:
        return []
    import asyncio

    return asyncio.run(_ask(noun, addresses))


async def _ask(noun: str, addresses: list[str]) -> list[tuple[str, str]]:
    import asyncio

    from poolcli.nouns import collection, label
    from poolcli.text import safe
    from poolclient import PoolClient

    async with (
        asyncio.timeout(LIMIT_SECONDS),
        PoolClient.connect(*addresses, timeout_seconds=LIMIT_SECONDS) as pool,
    ):
        objects = await collection(pool, noun).list()
    # A name that would command the terminal is completed by its uuid.
    named = ((label(obj), obj.uuid) for obj in objects)
    return [(name if name == safe(name) else uuid, uuid) for name, uuid in named]


def _listens(address: str) -> bool:
    try:
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CONNECT_SECONDS)
                connection.connect("/" + address.removeprefix("unix:").lstrip("/"))
            return True
        host, _, port = address.rpartition(":") if ":" in address else (address, "", DEFAULT_PORT)
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False
