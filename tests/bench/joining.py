"""How long it takes to take a host in, from the command to the member that has everything."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.figures import Aim, Section, Spread, Table, milliseconds
from bench.processes import environment
from bench.progress import tell
from poolclient import PoolClient
from support.daemons import Loopback, running_cluster

TRIALS = 10
AIM_SECONDS = 1.0
POOL = str(Path(sys.executable).with_name("pool"))

METHOD = f"""\
Three daemons with simulated hypervisors; ignite joins phantom's pool and leaves it again, {TRIALS}
times. A join ends when the member has a session and has durably applied everything. *Client
library*: from `pool.add_host(...)` to the end of its task, preflight included. *Command*: the whole
of `pool add-host`, the start of a Python process included; its reference is `pool --help`, which
does nothing else."""


async def joining(folder: Path) -> Section:
    """Run the part in `folder`."""
    async with running_cluster(folder, Loopback(2)) as cluster:
        phantom, ignite = cluster.process("phantom"), cluster.process("ignite")
        specter = cluster.process("specter")
        await cluster.start()
        async with PoolClient.connect(phantom.endpoint) as pool:
            await (await pool.add_host(specter.endpoint))

            async def by_library() -> None:
                await (await pool.add_host(ignite.endpoint))

            async def by_command() -> None:
                await _run("--server", phantom.endpoint, "add-host", ignite.endpoint)

            async def back() -> None:
                await (await pool.eject_host("ignite"))

            library = await _times(by_library, back)
            tell(f"joining: client library {milliseconds(library.p50)}")
            command = await _times(by_command, back)
            tell(f"joining: command {milliseconds(command.p50)}")
    help_ = await _times(lambda: _run("--help"), _nothing)
    rows = tuple(
        (how, milliseconds(spread.p50), milliseconds(spread.p99))
        for how, spread in (("Client library", library), ("Command", command), ("Help", help_))
    )
    return Section(
        title="Joining",
        method=METHOD,
        tables=[Table(("", "p50", "longest"), rows)],
        aims=[
            Aim(
                "Join, command to member caught up",
                "< 1 s",
                milliseconds(command.p50),
                command.p50 < AIM_SECONDS,
            )
        ],
    )


async def _times(
    work: Callable[[], Awaitable[None]], undo: Callable[[], Awaitable[None]]
) -> Spread:
    seconds = []
    for _ in range(TRIALS):
        began = time.perf_counter()
        await work()
        seconds.append(time.perf_counter() - began)
        await undo()
    return Spread.of(seconds)


async def _nothing() -> None:
    """Nothing is to be undone."""


async def _run(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        POOL, *arguments, env=environment(), stdout=DEVNULL, stderr=DEVNULL
    )
    if await process.wait() != 0:
        raise RuntimeError(f"pool {' '.join(arguments)} failed")
