"""How long a pool takes no writes when its master dies, freezes or hands over."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from itertools import cycle, islice, pairwise
from pathlib import Path

from bench.figures import Aim, Section, Spread, Table, milliseconds
from bench.progress import tell
from poolclient import PoolClient
from poolcore.clock import SystemClock
from poolcore.replica import Put, State
from poolmaster.claiming import claim
from poolmaster.layout import load
from poolmaster.ledger import Decision, Ledger
from poolmaster.store.sqlite import SqliteStore
from support.daemons import Loopback, ProcessHost, running_cluster
from support.marked_writes import writers
from support.shared_pool import STORE_FILE, SharedPool, shared_pool

KILLS = 20
FREEZES = 5
DESIGNATIONS = 100
WRITERS = 16
CLAIMS = 20
BETWEEN_SECONDS = 4.0
"""Between two trials: masters that change soon after each other are replaced with more care."""
ALIVE_SECONDS = 5.0
AIM_P50_SECONDS = 0.4
AIM_LONGEST_SECONDS = 1.0
AIM_PAUSE_SECONDS = 0.15
SETTLE_SECONDS = 0.3
"""Between two designations: as long as a pause is looked for after one."""

METHOD = f"""\
Three daemons with simulated hypervisors share their pool's store. A client that knows all their
addresses, and has been using the pool, writes once right after the master is gone; the time ends
when that write is acknowledged, by another master. At least {BETWEEN_SECONDS:g} s, and a pool that
is whole again, lie between two trials. *Killed*: `kill -9` of the master's process. *Frozen*:
SIGSTOP; connections stay open and nothing answers, so that only silence tells. *Designated*: the
mastership goes back and forth between two hosts while {WRITERS} clients write, each again 20 ms
after its answer; six of them know a single host. Counted is the longest time from one
acknowledgement to the next, whoever got them, from asking for the handover until
{SETTLE_SECONDS:g} s after its end. No call may fail. *Claim and commit*, the reference: what a
change of master costs in the store alone, in one process on the same file when all daemons have
ended. It reads `head`, swaps it, reads what the replica lacks, and makes the first commit of the
new term."""


async def failover(folder: Path) -> Section:
    """Run the part in `folder`."""
    async with running_cluster(folder, Loopback(4)) as cluster:
        async with shared_pool(cluster, folder) as pool:
            killed = await trials(pool, KILLS, kill, start)
            tell(f"failover: killed, {killed}")
            frozen = await trials(pool, FREEZES, _freeze, _thaw)
            tell(f"failover: frozen, {frozen}")
            designated = await designations(pool, DESIGNATIONS)
            tell(f"failover: designated, {designated}")
        await asyncio.gather(*(host.stop() for host in pool.hosts))
        claims = await _claims(folder / STORE_FILE)
    return _section(killed, frozen, designated, claims)


async def kill(_: SharedPool, master: ProcessHost) -> None:
    """End the master's process."""
    await master.kill()


async def start(master: ProcessHost) -> None:
    """Start it again."""
    await master.start()


async def _freeze(pool: SharedPool, master: ProcessHost) -> None:
    await pool.freeze(master)


async def _thaw(master: ProcessHost) -> None:
    master.signal(signal.SIGCONT)


async def trials(
    pool: SharedPool,
    number: int,
    stop: Callable[[SharedPool, ProcessHost], Awaitable[None]],
    bring_back: Callable[[ProcessHost], Awaitable[None]],
) -> Spread:
    """From a master's end, however it comes, to the next write that another one acknowledges."""
    seconds = []
    for trial in range(number):
        await asyncio.sleep(BETWEEN_SECONDS)
        master = await pool.master()
        async with PoolClient.connect(*pool.endpoints, timeout_seconds=30.0) as client:
            await client.hosts.set(master.name, other_config={"bench": "before"})
            began = time.perf_counter()
            await stop(pool, master)
            done = await client.hosts.set(master.name, other_config={"bench": str(trial)})
            seconds.append(time.perf_counter() - began)
        successor = await pool.another_master(than=master)
        await pool.chain.read_on()
        made_in = pool.chain.deltas[done.revision - 1].commit.term
        if made_in != (await pool.chain.head()).term:
            raise RuntimeError("the write was not made by the new master")
        await bring_back(master)
        await pool.attached(successor)
    return Spread.of(seconds)


async def designations(pool: SharedPool, number: int) -> Spread:
    """The longest pause of writes around each handover; no call may fail and no write be lost."""
    await asyncio.sleep(BETWEEN_SECONDS)
    first = await pool.master()
    second, *_ = pool.others(first)
    clock, pauses = asyncio.get_running_loop().time, []
    async with (
        PoolClient.connect(*pool.endpoints) as client,
        writers(pool.known_to(WRITERS)) as book,
    ):
        await book.goes_on(10 * WRITERS)
        for host in islice(cycle((second, first)), number):
            began = clock()
            await (await client.designate_master(host.name))
            await asyncio.sleep(SETTLE_SECONDS)
            await book.goes_on(WRITERS)
            told = [at for at in book.told_at if at > began - SETTLE_SECONDS]
            pauses.append(max(b - a for a, b in pairwise(told) if b > began))
            await pool.chain.read_on()
            # Reading takes this process a while, too; that is no pause of the pool's.
            await book.goes_on(WRITERS)
    await pool.chain.read_on()
    book.check(pool.chain.requests)
    if book.refused or book.unknown:
        raise RuntimeError(f"calls failed: {len(book.refused)} refused, {book.unknown} unknown")
    return Spread.of(pauses)


async def _claims(file: Path) -> Spread:
    """Changes of master without hosts; each begins from the state that the last one left."""
    store = await SqliteStore.open(file, pool=None, incarnation=None, shared=True)
    seconds = []
    try:
        head, state = await load(store)
        for number in range(CLAIMS):
            began = time.perf_counter()
            claimed = await claim(store, head.master, replica=state, alive_seconds=ALIVE_SECONDS)
            ledger = Ledger(store, claimed.head, claimed.state, clock=SystemClock())
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(ledger.run())
                await ledger.write(partial(_described, text=f"claim {number}"))
                seconds.append(time.perf_counter() - began)
                running.cancel()
            state = ledger.state
    finally:
        await store.close()
    return Spread.of(seconds)


def _described(state: State, text: str) -> Decision:
    return Decision((Put(replace(state.pool, name_description=text)),))


def _section(killed: Spread, frozen: Spread, designated: Spread, claims: Spread) -> Section:
    rows = tuple(
        (what, str(trials), *spread.extremes())
        for what, trials, spread in (
            ("Killed", KILLS, killed),
            ("Frozen", FREEZES, frozen),
            ("Designated", DESIGNATIONS, designated),
            ("Claim and commit", CLAIMS, claims),
        )
    )
    return Section(
        title="Failover",
        method=METHOD,
        tables=[Table(("", "trials", "p50", "longest"), rows)],
        aims=[
            Aim("Kill of the master to the next accepted write, p50", "≤ 400 ms",
                milliseconds(killed.p50), killed.p50 <= AIM_P50_SECONDS),
            Aim("Kill of the master to the next accepted write, longest", "≤ 1 s",
                milliseconds(killed.longest), killed.longest <= AIM_LONGEST_SECONDS),
            Aim("Pause of writes in a designation under load, longest", "≤ 150 ms",
                milliseconds(designated.longest), designated.longest <= AIM_PAUSE_SECONDS),
        ],
    )  # fmt: skip
