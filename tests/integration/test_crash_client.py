"""Kill -9 of the client at every step of join and eject.

From the moment a task is recorded it is the pool's, not the client's: it goes on. Before that
nothing was done, and nothing is.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from poolcore.model import Task
from poolcore.replica import State
from poolmaster.operations.eject import Eject
from poolmaster.operations.join import Join
from support.daemons import SHARED_SRS, Cluster, LocalHost
from support.waiting_agent import WaitingAgent
from support.wholeness import is_in

POOL = str(Path(sys.executable).with_name("pool"))


@asynccontextmanager
async def client(server: str, *command: str) -> AsyncIterator[None]:
    """A `pool` command that runs, and is killed at the end whether it has ended or not."""
    process = await asyncio.create_subprocess_exec(
        POOL, "--server", server, *command,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def a_pool(cluster: Cluster) -> tuple[LocalHost, LocalHost]:
    phantom, ignite = cluster.local("phantom", sim=SHARED_SRS), cluster.local("ignite")
    await cluster.start()
    return phantom, ignite


@pytest.mark.parametrize(
    ("operation", "step"),
    [(operation.name, step.name) for operation in (Join, Eject) for step in operation.steps],
)
async def test_the_client_dies_and_its_task_goes_on(
    operation: str, step: str, cluster: Cluster
) -> None:
    phantom, ignite = await a_pool(cluster)
    leaving = operation == Eject.name

    def has_come_to_the_step(state: State) -> bool:
        return any(t.operation == operation and t.step == step for t in state.all(Task))

    async with phantom.api() as api:
        if leaving:
            await api.join(ignite.endpoint)
        command = ("eject-host", "ignite", "--yes") if leaving else ("add-host", ignite.endpoint)
        async with client(phantom.endpoint, *command):
            await api.until(has_come_to_the_step)
        assert await is_in(ignite, phantom) is not leaving


async def test_the_client_dies_before_its_join_has_begun(cluster: Cluster) -> None:
    phantom, ignite = await a_pool(cluster)
    async with WaitingAgent(cluster.loopback.endpoint()) as host, phantom.api() as api:
        await api.quiet()
        before = await api.state()
        async with client(phantom.endpoint, "add-host", host.endpoint):
            await host.asked()
        await host.dropped()
        assert await api.state() == before
        await api.join(ignite.endpoint)
        assert await is_in(ignite, phantom)
