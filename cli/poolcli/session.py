"""What every command is given: its options, its connection, its ways to say things."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from poolcli import contexts
from poolcli.failures import UsageError
from poolcli.output import Format, note
from poolcli.text import duration

if TYPE_CHECKING:
    from poolclient import Freshness, Options, PoolClient

SOCKET = "/run/poolmember/api.sock"
CALL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Given:
    """The options that every command has, as far as they were given."""

    server: str | None = None
    output: Format | None = None
    timeout: float | None = None
    require_fresh: bool = False

    def over(self, other: Given) -> Given:
        """These options where they were given, and the others where not."""
        return Given(
            server=self.server or other.server,
            output=self.output or other.output,
            timeout=other.timeout if self.timeout is None else self.timeout,
            require_fresh=self.require_fresh or other.require_fresh,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where the pool is, and the context that says so, if one does."""

    addresses: tuple[str, ...]
    context: str = ""


def target(server: str | None) -> Target:
    """From --server or POOL_SERVER, else the current context, else this host's own socket."""
    server = server or os.environ.get("POOL_SERVER")
    if server:
        addresses = tuple(a.strip() for a in server.split(",") if a.strip())
        if not addresses:
            raise UsageError("--server names no address.")
        return Target(addresses)
    known = contexts.load()
    if known.current:
        context = known.get(known.current)
        return Target(context.addresses, context.name)
    return Target((f"unix://{SOCKET}",))


class Session:
    """One run of one command."""

    def __init__(self, given: Given) -> None:
        if given.timeout is not None and given.timeout <= 0:
            raise UsageError("--timeout must be more than 0 seconds.")
        self.given = given
        self.format = given.output or Format.TABLE
        self.started = time.monotonic()
        self.task = ""
        """The task that is waited for, and goes on when the waiting ends early."""
        self._stale_noted = False

    def refuse_format(self, *formats: Format) -> None:
        """Refuse a format that the command does not have."""
        if self.format in formats:
            raise UsageError(f"This command has no output format {self.format}.")

    @property
    def remaining(self) -> float | None:
        """Seconds left of --timeout; none without one."""
        if self.given.timeout is None:
            return None
        return max(0.01, self.started + self.given.timeout - time.monotonic())

    @asynccontextmanager
    async def pool(self, at: Target | None = None) -> AsyncIterator[PoolClient]:
        """The pool this command is about."""
        at = at or target(self.given.server)
        async with AsyncExitStack() as stack:
            yield await self._connected(at, stack)

    async def _connected(self, at: Target, stack: AsyncExitStack) -> PoolClient:
        from poolclient import Conflict, PoolClient

        options: Options = {
            "timeout_seconds": self.remaining or CALL_SECONDS,
            "require_fresh": self.given.require_fresh,
            "on_stale": self._on_stale,
        }
        if at.context:
            options["pool"] = contexts.load().get(at.context).pool
        client = PoolClient.connect(*at.addresses, **options)
        try:
            await stack.enter_async_context(client)
        except Conflict:
            moved = await _common_pool(at.addresses, options) if at.context else ""
            if not moved:
                raise
            options["pool"] = moved
            client = PoolClient.connect(*at.addresses, **options)
            await stack.enter_async_context(client)
        if at.context:
            saw(at.context, client.pool_uuid)
        return client

    def _on_stale(self, freshness: Freshness) -> None:
        if self._stale_noted:
            return
        self._stale_noted = True
        age = freshness.age_seconds
        note(
            f"Note: this answer is stale: revision {freshness.revision}"
            + ("" if age is None else f", {duration(age)} old")
            + "; the host that gave it has no connection to a master."
        )


async def _common_pool(addresses: Sequence[str], options: Options) -> str:
    """The pool of which all addresses are now; empty when one differs or does not answer.

    A context moves to another pool with its hosts. One host that has left must not take a context
    of several along: what was meant for the pool would be done to that host.
    """
    from poolclient import PoolClient, PoolClientError

    options = options.copy()
    options["pool"] = ""
    pools = set()
    for address in addresses:
        try:
            async with PoolClient.connect(address, **options) as host:
                pools.add(host.pool_uuid)
        except PoolClientError:
            return ""
    return pools.pop() if len(pools) == 1 else ""


def saw(context: str, pool: str) -> None:
    """Keep a context's pool in mind; fold it into another context of that pool."""
    known = contexts.load()
    before = known.by_name.get(context)
    if before is None or before.pool == pool:
        return
    now = known.saw(context, pool)
    contexts.save(known)
    if now != context:
        note(f"Note: context {context} is of the same pool as {now} and was folded into it.")


def no_host_hint(at: Target) -> str:
    """What to do when no host answers, given where it was looked for."""
    if at.addresses == (f"unix://{SOCKET}",) and not Path(SOCKET).exists():
        return (
            "No poolmember runs on this machine. Name a host of the pool with --server or "
            "POOL_SERVER, or choose one with `pool context add`; `pool demo` shows a pool."
        )
    return ""


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether the person agrees; without a terminal only --yes counts."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("This needs --yes where nobody can be asked.")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
