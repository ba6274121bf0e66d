"""What a second copy of every acknowledged write costs, and what it gives: pools of two hosts."""

from __future__ import annotations

import asyncio
import signal
import time
from itertools import cycle, islice, pairwise
from pathlib import Path

from bench.figures import Aim, Section, Spread, Table, milliseconds, per_second
from bench.loads import Load, closed
from bench.progress import tell
from bench.scale import vms
from poolclient import PoolClient
from support.daemons import Loopback, ProcessHost, running_cluster
from support.marked_writes import writers

ROUND_SECONDS = 5.0
MANY_WRITERS = 64
DESIGNATIONS = 20
WRITERS = 16
LOSSES = 10
VMS = 10_000
LARGE_DESIGNATIONS = 4
AIM_PAUSE_SECONDS = 0.5
SETTLE_SECONDS = 0.5

METHOD = f"""\
Two daemons with simulated hypervisors; the store is at the master, the other host's replica is in
step. *Alone* and *in step*: the same daemon before the second host has joined and after it; one
writer, and {MANY_WRITERS} of them, for {ROUND_SECONDS:g} s each. *Designated*: the mastership goes
to and fro while {WRITERS} clients write, as in the part on failover; the store moves with it. *With
{VMS:,} VMs*: the same, {LARGE_DESIGNATIONS} times, in a pool of that size. *Member stopped*: a
write right after SIGSTOP of the member; the pool's `in_step_seconds` is 1. *Master lost*: `kill -9`
of the master, at once the one command at the other host, and a write there; the time ends when that
is acknowledged."""


async def two_hosts(folder: Path) -> Section:
    """Run the part in `folder`."""
    for name in ("loads", "designations", "large", "losses"):
        (folder / name).mkdir()
    loads = await _loads(folder / "loads")
    designated = await _designations(folder / "designations", DESIGNATIONS)
    tell(f"two hosts: designated, {designated}")
    large = await _designations(folder / "large", LARGE_DESIGNATIONS, sim=vms(VMS))
    tell(f"two hosts: designated with {VMS} VMs, {large}")
    stopped, lost = await _losses(folder / "losses")
    tell(f"two hosts: stopped {stopped}, lost {lost}")
    return _section(loads, designated, large, stopped, lost)


async def _loads(folder: Path) -> dict[str, tuple[Load, Load]]:
    async with running_cluster(folder, Loopback(5)) as cluster:
        phantom, ignite = cluster.process("phantom"), cluster.process("ignite")
        await cluster.start()
        found = {"alone": await _load(phantom)}
        async with phantom.api() as api:
            await api.join(ignite.endpoint)
            await api.in_step()
        found["in step"] = await _load(phantom)
    return found


async def _load(host: ProcessHost) -> tuple[Load, Load]:
    async with PoolClient.connect(host.endpoint) as pool:

        async def write(writer: int) -> None:
            await pool.hosts.set("phantom", other_config={f"w{writer}": str(time.monotonic())})

        return (
            await closed(1, ROUND_SECONDS, write),
            await closed(MANY_WRITERS, ROUND_SECONDS, write),
        )


async def _designations(folder: Path, number: int, *, sim: str = "") -> Spread:
    """The longest pause of writes around each handover; no call may fail."""
    clock, pauses = asyncio.get_running_loop().time, []
    async with running_cluster(folder, Loopback(6)) as cluster:
        hosts = [cluster.process("phantom", sim=sim), cluster.process("ignite")]
        await cluster.start()
        async with hosts[0].api() as api:
            await api.join(hosts[1].endpoint)
            await api.in_step()
        known = [tuple(host.endpoint for host in hosts)] * WRITERS
        async with PoolClient.connect(*known[0]) as client, writers(known) as book:
            await book.goes_on(10 * WRITERS)
            for name in islice(cycle(("ignite", "phantom")), number):
                began = clock()
                await (await client.designate_master(name))
                await asyncio.sleep(SETTLE_SECONDS)
                await book.goes_on(WRITERS)
                told = [at for at in book.told_at if at > began - SETTLE_SECONDS]
                pauses.append(max(b - a for a, b in pairwise(told) if b > began))
        if book.refused or book.unknown:
            raise RuntimeError(f"calls failed: {len(book.refused)} refused, {book.unknown} unknown")
    return Spread.of(pauses)


async def _losses(folder: Path) -> tuple[Spread, Spread]:
    """How long a write takes when the member stops, and after the master is lost."""
    stopped, lost = [], []
    async with running_cluster(folder, Loopback(7)) as cluster:
        master, member = cluster.process("phantom"), cluster.process("ignite")
        await cluster.start()
        async with master.api() as api:
            await api.join(member.endpoint)
        for trial in range(LOSSES):
            async with master.api() as api:
                await api.in_step()
                # At the beginning of a mastership hosts have longer to come.
                await asyncio.sleep(3.0)
                member.signal(signal.SIGSTOP)
                began = time.perf_counter()
                await api.update_pool(name_description=f"stopped {trial}")
                stopped.append(time.perf_counter() - began)
                member.signal(signal.SIGCONT)
                await api.in_step()
            began = time.perf_counter()
            await master.kill()
            async with member.api() as api:
                await api.emergency_transition()
                await api.update_pool(name_description=f"lost {trial}")
                lost.append(time.perf_counter() - began)
            await master.start()
            master, member = member, master
    return Spread.of(stopped), Spread.of(lost)


def _section(
    loads: dict[str, tuple[Load, Load]],
    designated: Spread,
    large: Spread,
    stopped: Spread,
    lost: Spread,
) -> Section:
    one, many = loads["in step"]
    alone, many_alone = loads["alone"]
    ratio = one.latency.p50 / alone.latency.p50
    return Section(
        title="Two hosts",
        method=METHOD,
        tables=[
            Table(
                ("", "one writer, p50", f"{MANY_WRITERS} writers"),
                tuple(
                    (what, milliseconds(a.latency.p50), per_second(b.rate))
                    for what, (a, b) in loads.items()
                ),
            ),
            Table(
                ("", "p50", "longest"),
                tuple(
                    (what, milliseconds(spread.p50), milliseconds(spread.longest))
                    for what, spread in (
                        ("Designated", designated),
                        (f"Designated, with {VMS:,} VMs", large),
                        ("Member stopped", stopped),
                        ("Master lost, one command", lost),
                    )
                ),
            ),
        ],
        notes=[
            f"A second copy makes a write {ratio:.2f} × as long for one writer, and leaves "
            f"{many.rate / many_alone.rate:.2f} × as many for {MANY_WRITERS}."
        ],
        aims=[
            Aim("Pause of writes in a designation of two hosts under load, longest", "≤ 500 ms",
                milliseconds(designated.longest), designated.longest <= AIM_PAUSE_SECONDS),
        ],
    )  # fmt: skip
