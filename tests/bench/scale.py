"""What a large pool costs: start, memory, lists, commits, and feeding a new member."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench.figures import Aim, Section, Spread, Table, mebibytes, milliseconds
from bench.loads import closed
from bench.processes import memory_bytes, until_idle
from bench.progress import tell
from poolclient import PoolClient
from support.daemons import Cluster, Loopback, ProcessHost, running_cluster

SIZES = (0, 1_000, 10_000)
ROUNDS = 3
COMMIT_SECONDS = 1.0
AIM_COLD_START_SECONDS = 2.0
AIM_MEMORY_BYTES = 300e6
AIM_COMMIT_RATIO = 1.2

METHOD = f"""\
A daemon for each size, on a simulated host with so many VMs, each with a VBD, a VDI and a VIF; all
of them run at the same time and are measured in turns, medians of {ROUNDS} rounds. What each costs
with no VMs is the reference of the other rows.

*Cold start*: from starting the process to the first fresh answer, with the pool in the store; then
the daemon is left alone until it is idle, as it also takes stock of the host. *Memory*: resident
after everything below, and the most it ever was. *List*: all VMs through the client library, by
pages. *Commit*: one writer, `pool.srs.set(...)`. *New member*: the join of a fresh host through the
client library, preflight and its snapshot included, until it has durably applied everything."""


@dataclass(slots=True)
class Measured:
    """What was found of one size, in seconds and bytes."""

    starts: list[float] = field(default_factory=list)
    lists: list[float] = field(default_factory=list)
    commits: list[Spread] = field(default_factory=list)
    feeds: list[float] = field(default_factory=list)
    memory_bytes: tuple[int, int] = (0, 0)


async def scale(folder: Path) -> Section:
    """Run the part in `folder`."""
    found = {size: Measured() for size in SIZES}
    async with running_cluster(folder, Loopback(3)) as cluster:
        hosts = {size: cluster.process(f"with-{size}", sim=vms(size)) for size in SIZES}
        await cluster.start()
        for number in range(ROUNDS):
            for size, host in hosts.items():
                await _round(cluster, host, found[size])
                tell(f"scale: {size:,} VMs, round {number + 1}")
        for size, host in hosts.items():
            found[size].memory_bytes = memory_bytes(host.process.pid)
    return _section(found)


def vms(size: int) -> str:
    """What a simulated host's file says of so many VMs."""
    if not size:
        return ""
    return f'[[vm]]\nname = "vm"\ncount = {size}\n[[vm.disk]]\n[[vm.nic]]\n'


async def _round(cluster: Cluster, host: ProcessHost, found: Measured) -> None:
    await host.stop()
    found.starts.append(await _took(lambda: _start(host)))
    await until_idle(host.process.pid)
    async with PoolClient.connect(host.endpoint, timeout_seconds=60.0) as pool:
        (sr, *_) = await pool.srs.list()
        numbers = count()

        async def write(_: int) -> object:
            return await pool.srs.set(sr, other_config={"bench": str(next(numbers))})

        found.commits.append((await closed(1, COMMIT_SECONDS, write)).latency)
        found.lists.append(await _took(pool.vms.list))
        member = cluster.process(f"member-{len(cluster.hosts)}")
        await member.start()

        async def feed() -> None:
            await (await pool.add_host(member.endpoint))

        found.feeds.append(await _took(feed))
        await (await pool.eject_host(member.name))
        await member.stop()


async def _start(host: ProcessHost) -> None:
    await host.start()
    async with PoolClient.connect(host.endpoint) as pool:
        await pool.pool()


async def _took(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


def _section(found: dict[int, Measured]) -> Section:
    rows = tuple(
        (
            f"{size:,}",
            milliseconds(statistics.median(m.starts)),
            *map(mebibytes, m.memory_bytes),
            milliseconds(statistics.median(m.lists)),
            *Spread.median(m.commits).cells(),
            milliseconds(statistics.median(m.feeds)),
        )
        for size, m in found.items()
    )
    small, large = found[min(SIZES)], found[max(SIZES)]
    start = statistics.median(large.starts)
    ratio = Spread.median(large.commits).p50 / Spread.median(small.commits).p50
    memory = max(large.memory_bytes)
    most = f"{max(SIZES):,} VMs"
    return Section(
        title="Large pools",
        method=METHOD,
        tables=[
            Table(
                ("VMs", "cold start", "memory", "at most", "list", "commit p50", "p99",
                 "new member"),
                rows,
            )
        ],
        aims=[
            Aim(f"Cold start with {most}", "< 2 s", milliseconds(start),
                start < AIM_COLD_START_SECONDS),
            Aim(f"Memory with {most}, at most", "< 300 MB", f"{memory / 1e6:.0f} MB",
                memory < AIM_MEMORY_BYTES),
            Aim(f"Commit latency with {most} against that with none", f"≤ {AIM_COMMIT_RATIO} ×",
                f"{ratio:.2f} ×", ratio <= AIM_COMMIT_RATIO),
        ],
    )  # fmt: skip
