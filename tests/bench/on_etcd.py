"""A pool whose store is in etcd: commits, reads, and how long it takes no writes."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.commits import VMS, library_writes
from bench.failover import BETWEEN_SECONDS, designations, kill, start, trials
from bench.figures import Aim, Section, Spread, Table, milliseconds, per_second
from bench.loads import Load, closed
from bench.processes import memory_bytes
from bench.progress import tell
from bench.references import bare_etcd, echo
from bench.scale import vms
from poolclient import PoolClient
from support.daemons import Loopback, ProcessHost, running_cluster
from support.etcd import EtcdCluster
from support.shared_pool import SharedPool, shared_pool

MANY = 64
ROUNDS = 3
SECONDS = 2.0
KILLS = 50
DESIGNATIONS = 100
VMS_OF_A_LARGE_POOL = 10_000
KILLS_WITH_VMS = 5
AIM_WRITES_PER_SECOND = 4_000
AIM_SHARE_OF_ETCD = 0.5
AIM_ONE_WRITER = 2.5
AIM_READS_PER_SECOND = 5_000
AIM_KILL_P50_SECONDS, AIM_KILL_LONGEST_SECONDS = 0.5, 1.0
AIM_PAUSE_SECONDS = 0.2
AIM_LARGE_SECONDS = 1.0
AIM_LARGE_BYTES = 300e6

METHOD = f"""\
Three daemons with simulated hypervisors on a cluster of three etcd, all on this machine's loopback
and disk, and this process as the client: twelve processes share the processors, where three hosts
would have their own. *Client library*: as in the part on commits. *Bare etcd*: transactions of one
new key, over one connection with gRPC's Python library, at the same cluster in the same round.
*Fresh reads*: `pool.hosts.read(...)` at the master, each confirmed by etcd that it is the newest;
*empty calls*: a gRPC server in Python that does nothing, over one connection. *Others frozen*: as
the client library, while the daemons of the other two hosts are stopped by SIGSTOP, so that only
what a commit waits for takes time of the processors; their etcd goes on. Medians of {ROUNDS} rounds
of {SECONDS:g} s. *Killed* and *Designated* are measured as in the part on failover, at least
{BETWEEN_SECONDS:g} s apart; *with VMs*: in a second pool, with {VMS_OF_A_LARGE_POOL:,} VMs, whose
daemons' memory is measured afterwards, the largest counts."""


@asynccontextmanager
async def pool_on_etcd(
    folder: Path, net: int, *, sim: str = ""
) -> AsyncIterator[tuple[SharedPool, EtcdCluster]]:
    """A pool of three, `sim` on the first of them, and the cluster of three that it is on."""
    (folder / "etcd").mkdir()
    etcd = EtcdCluster(folder / "etcd", size=3)
    try:
        await etcd.start()
        url = f"etcd:{','.join(etcd.addresses)}"
        async with (
            running_cluster(folder, Loopback(net)) as cluster,
            shared_pool(cluster, folder, sims=(sim, "", ""), url=url) as pool,
        ):
            yield pool, etcd
    finally:
        etcd.kill()


async def on_etcd(folder: Path) -> Section:
    """Run the part in `folder`."""
    async with pool_on_etcd(folder, 5, sim=VMS) as (pool, etcd):
        loads = await _loads(pool, etcd)
        await pool.chain.read_on()
        killed = await trials(pool, KILLS, kill, start)
        tell(f"etcd: killed, {killed}")
        designated = await designations(pool, DESIGNATIONS)
        tell(f"etcd: designated, {designated}")
    (folder / "large").mkdir()
    async with pool_on_etcd(folder / "large", 7, sim=vms(VMS_OF_A_LARGE_POOL)) as (pool, _):
        large = await trials(pool, KILLS_WITH_VMS, kill, start)
        memory = max(memory_bytes(host.process.pid)[1] for host in pool.hosts)
        tell(f"etcd: killed with {VMS_OF_A_LARGE_POOL:,} VMs, {large}")
    return _section(loads, killed, designated, large, memory)


async def _loads(pool: SharedPool, etcd: EtcdCluster) -> dict[tuple[str, int], Load]:
    found: dict[tuple[str, int], list[Load]] = {}

    def note(how: str, callers: int, load: Load) -> None:
        tell(f"etcd: {how}, {callers}: {load.rate:,.0f}/s")
        found.setdefault((how, callers), []).append(load)

    leader = (await etcd.leader()).address
    async with AsyncExitStack() as stack:
        master = await pool.master()
        client = await stack.enter_async_context(PoolClient.connect(master.endpoint))
        empty = await stack.enter_async_context(echo())
        write = library_writes(client, [vm.uuid for vm in await client.vms.list()])

        async def read(_: int) -> None:
            if (await client.hosts.read(master.name))[1].stale:
                raise RuntimeError("the master has answered from its replica")

        for _ in range(ROUNDS):
            for callers in (1, MANY):
                note("Client library", callers, await closed(callers, SECONDS, write))
                # Before the pool forgets it: both loads together may be more than it keeps.
                await pool.chain.read_on()
                async with frozen(host for host in pool.hosts if host is not master):
                    note("Others frozen", callers, await closed(callers, SECONDS, write))
                await pool.chain.read_on()
                note("Bare etcd", callers, await bare_etcd(leader, callers, SECONDS))
            note("Fresh reads", MANY, await closed(MANY, SECONDS, read))
            note("Empty calls", MANY, await empty.calls(MANY, SECONDS / 2))
    return {key: Load.median(rounds) for key, rounds in found.items()}


@asynccontextmanager
async def frozen(hosts: Iterable[ProcessHost]) -> AsyncIterator[None]:
    """The hosts' daemons stand still as long as the block runs."""
    stopped = list(hosts)
    try:
        for host in stopped:
            host.signal(signal.SIGSTOP)
            await host.stopped()
        yield
    finally:
        for host in stopped:
            host.signal(signal.SIGCONT)


def _section(
    loads: dict[tuple[str, int], Load],
    killed: Spread,
    designated: Spread,
    large: Spread,
    memory: int,
) -> Section:
    many, bare = loads["Client library", MANY], loads["Bare etcd", MANY]
    one, bare_one = loads["Client library", 1].latency, loads["Bare etcd", 1].latency
    reads, empty = loads["Fresh reads", MANY], loads["Empty calls", MANY]
    alone, many_alone = loads["Others frozen", 1].latency, loads["Others frozen", MANY]
    rows = tuple(
        (how, str(callers), per_second(load.rate), *load.latency.cells())
        for (how, callers), load in loads.items()
    )
    changes = tuple(
        (what, str(number), *spread.extremes())
        for what, number, spread in (
            ("Killed", KILLS, killed),
            ("Killed, with VMs", KILLS_WITH_VMS, large),
            ("Designated", DESIGNATIONS, designated),
        )
    )
    return Section(
        title="On etcd",
        method=METHOD,
        tables=[
            Table(("", "callers", "per second", "p50", "p99"), rows),
            Table(("", "trials", "p50", "longest"), changes),
        ],
        notes=[
            "One writer's commit takes time of seven processes: the client, the master, two "
            "members that apply it, three etcd. They share two processors here, and so the next "
            "commit waits for what the members still have to do with the last one. With their "
            f"daemons frozen it takes {alone.p50 / bare_one.p50:.2f} times as long as bare etcd's, "
            f"and {MANY} writers make {per_second(many_alone.rate)}.",
            f"{MANY} readers get {reads.rate / empty.rate:.0%} of the answers that the empty "
            "server gives: more than half of the master's time is gRPC's Python library, for each "
            "call that it takes and each that it sends to etcd to confirm that it is still the "
            "master. What would go beyond: one call for many reads, or more than one process "
            "that answers.",
        ],
        aims=[
            Aim(f"On etcd: commits with {MANY} writers", f"≥ {per_second(AIM_WRITES_PER_SECOND)}",
                per_second(many.rate), many.rate >= AIM_WRITES_PER_SECOND),
            Aim("On etcd: those against bare etcd's transactions", f"≥ {AIM_SHARE_OF_ETCD} ×",
                f"{many.rate / bare.rate:.2f} ×", many.rate >= AIM_SHARE_OF_ETCD * bare.rate),
            Aim("On etcd: one writer's p50 against bare etcd's", f"≤ {AIM_ONE_WRITER} ×",
                f"{one.p50 / bare_one.p50:.2f} ×", one.p50 <= AIM_ONE_WRITER * bare_one.p50),
            Aim(f"On etcd: fresh reads with {MANY} readers",
                f"≥ {per_second(AIM_READS_PER_SECOND)}",
                per_second(reads.rate), reads.rate >= AIM_READS_PER_SECOND),
            Aim("On etcd: kill of the master to the next accepted write, p50",
                f"≤ {milliseconds(AIM_KILL_P50_SECONDS)}",
                milliseconds(killed.p50), killed.p50 <= AIM_KILL_P50_SECONDS),
            Aim("On etcd: the same, longest", f"≤ {milliseconds(AIM_KILL_LONGEST_SECONDS)}",
                milliseconds(killed.longest), killed.longest <= AIM_KILL_LONGEST_SECONDS),
            Aim("On etcd: pause of writes in a designation under load, longest",
                f"≤ {milliseconds(AIM_PAUSE_SECONDS)}",
                milliseconds(designated.longest), designated.longest <= AIM_PAUSE_SECONDS),
            Aim(f"On etcd: kill with {VMS_OF_A_LARGE_POOL:,} VMs, p50 above that with few",
                f"≤ {milliseconds(AIM_LARGE_SECONDS)}", milliseconds(large.p50 - killed.p50),
                large.p50 - killed.p50 <= AIM_LARGE_SECONDS),
            Aim(f"On etcd: memory of a daemon with {VMS_OF_A_LARGE_POOL:,} VMs, at most",
                "≤ 300 MB", f"{memory / 1e6:.0f} MB", memory <= AIM_LARGE_BYTES),
        ],
    )  # fmt: skip
