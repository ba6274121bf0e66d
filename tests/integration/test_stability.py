"""Masters that have too much to do, and are not to be replaced for it.

For how long: `STABILITY_SECONDS` in the environment, 10 without it. Run by `make test-strain`, and
alone: beside other tests it would have less than the processors that it keeps busy itself.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from poolcore.model import VM, Host, Kind
from poolcore.replica import Delta, Put, Remove
from support import disk_staller
from support.daemons import Cluster
from support.marked_writes import writers
from support.shared_pool import SharedPool, shared_pool

STABILITY_SECONDS = float(os.environ.get("STABILITY_SECONDS", "10"))
CLIENTS = 16
VMS = 10_000
MANY = f'[[vm]]\nname = "vm"\ncount = {VMS}\n[[vm.disk]]\n[[vm.nic]]\n'
LOADING_SECONDS = 120.0
"""How long the VMs may take to come or go, on two processors that others use, too."""
STALL_SECONDS = 0.3
BETWEEN_STALLS_SECONDS = 1.0
LOOK_SECONDS = 1.0


@asynccontextmanager
async def busy_processors() -> AsyncIterator[None]:
    """A process for each processor that does nothing but keep it busy."""
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            await process.wait()


@asynccontextmanager
async def stalling_disks(files: list[Path]) -> AsyncIterator[None]:
    """Let no commit to these SQLite files end for 300 ms, again and again.

    Somebody else holds the write lock of each for so long. To who commits, that is what a disk is
    that takes 300 ms for an fsync: a thread waits inside SQLite, and reads go on. A real disk can
    be made slow only with the rights of root, and for everybody.
    """
    seconds = (str(STALL_SECONDS), str(BETWEEN_STALLS_SECONDS))
    process = await asyncio.create_subprocess_exec(
        sys.executable, disk_staller.__file__, *seconds, *files, stdin=asyncio.subprocess.PIPE
    )
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


async def vms_come_and_go(pool: SharedPool) -> None:
    """The master finds 10,000 VMs, and then that they are gone; then a member does; and again."""
    master, there, read = await pool.master(), 0, 0
    member = next(host for host in pool.hosts if host is not master)
    steps = [(host, *loads) for host in (master, member) for loads in ((MANY, VMS), ("", 0))]
    for host, sim, number in cycle(steps):
        host.describe(sim)
        async with asyncio.timeout(LOADING_SECONDS):
            while there != number:
                # Asked for rather than told: the master has enough to do.
                await asyncio.sleep(LOOK_SECONDS)
                await pool.chain.read_on()
                for place in range(read, len(pool.chain.deltas)):
                    delta = pool.chain.deltas[place]
                    there += _vms(delta)
                    pool.chain.deltas[place] = _light(delta)
                read = len(pool.chain.deltas)


def _light(delta: Delta) -> Delta:
    """A commit without what is of no more use here: in half an hour that is gigabytes."""
    hosts = (c for c in delta.changes if isinstance(c, Put) and isinstance(c.object, Host))
    return replace(delta, changes=tuple(hosts))


def _vms(delta: Delta) -> int:
    """How many VMs more there are after a commit; here none is ever changed."""
    puts = (c for c in delta.changes if isinstance(c, Put) and isinstance(c.object, VM))
    removals = (c for c in delta.changes if isinstance(c, Remove) and c.kind is Kind.VM)
    return sum(1 for _ in puts) - sum(1 for _ in removals)


@pytest.mark.strain
async def test_no_master_is_replaced_for_having_much_to_do(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with shared_pool(cluster, tmp_path) as pool:
        before = await pool.chain.head()
        assert pool.file is not None
        files = [pool.file, *(host.state_dir / "replica.db" for host in pool.hosts)]
        async with busy_processors(), writers([pool.endpoints] * CLIENTS) as book:
            async with asyncio.TaskGroup() as tasks:
                async with stalling_disks(files):
                    loading = tasks.create_task(vms_come_and_go(pool))
                    await asyncio.sleep(STABILITY_SECONDS)
                loading.cancel()
            await book.goes_on(CLIENTS)
        await pool.chain.read_on()
        book.check(pool.chain.requests)
        after = await pool.chain.head()
        assert (after.term, after.master) == (before.term, before.master)
        assert not book.refused
        await pool.attached(await pool.one_master())
