"""Acknowledged commits per second, and how long one takes, with 1, 8 and 64 writers."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

from bench.figures import Aim, Section, Table, per_second
from bench.loads import Ask, Load, closed
from bench.progress import tell
from bench.references import bare_sqlite, echo
from poolclient import PoolClient
from poolcore.replica import DEFAULT_HISTORY_REVISIONS
from poolcore.requests import request_id
from poolcore.wire.channels import open_channel
from poolmanager.v1 import patch_pb2, vm_service_pb2, vm_service_pb2_grpc
from support.daemons import Loopback, running_cluster

WRITERS = (1, 8, 64)
ROUNDS = 3
SECONDS = 2.0
AIM_PER_SECOND = 4_000
VMS = f"""
[[vm]]
name = "vm"
count = {max(WRITERS)}
[[vm.disk]]
[[vm.nic]]
"""

METHOD = f"""\
One daemon, a process of its own, on a simulated host with {max(WRITERS)} VMs; this process is the
client. Each writer changes `other_config` of a VM of its own, with a new request id each time, and
goes on when the change is acknowledged. The pool remembers as many commits as it keeps
({DEFAULT_HISTORY_REVISIONS:,}) before anything is measured, so each commit also forgets one.
Medians of {ROUNDS} rounds of {SECONDS:g} s, all rows in turn within a round.

*Client library*: `pool.vms.set(...)`, which sends what is asked for at the same time in one
`BatchUpdate`. *A call each*: `UpdateVm`, each writer over a connection of its own. *Empty calls*: a
gRPC server in Python that does nothing, over as many connections. *Bare SQLite*: one row per
transaction, with the same `synchronous` setting, in this process."""


async def commits(folder: Path) -> Section:
    """Run the part in `folder`."""
    found: dict[tuple[str, int], list[Load]] = {}

    def note(how: str, writers: int, load: Load) -> None:
        tell(f"commits: {how}, {writers}: {load.rate:,.0f}/s")
        found.setdefault((how, writers), []).append(load)

    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running_cluster(folder, Loopback(1)))
        host = cluster.process("phantom", sim=VMS)
        await host.start()
        pool = await stack.enter_async_context(PoolClient.connect(host.endpoint))
        vms = [vm.uuid for vm in await pool.vms.list()]
        through_library = library_writes(pool, vms)
        one_call_each = await stack.enter_async_context(_unary_writes(pool, host.endpoint, vms))
        empty = await stack.enter_async_context(echo())
        tell("commits: filling the history")
        while pool.revision < DEFAULT_HISTORY_REVISIONS:
            await closed(max(WRITERS), 0.5, through_library)
        for _ in range(ROUNDS):
            note("Bare SQLite", 1, bare_sqlite(folder, SECONDS))
            for writers in WRITERS:
                note("Client library", writers, await closed(writers, SECONDS, through_library))
                note("A call each", writers, await closed(writers, SECONDS, one_call_each))
                note("Empty calls", writers, await empty.calls(writers, SECONDS / 2))
    return _section({key: Load.median(rounds) for key, rounds in found.items()})


def library_writes(pool: PoolClient, vms: Sequence[str]) -> Ask:
    """Writes through the client library, by each writer to a VM of its own."""
    numbers = count()

    async def write(writer: int) -> object:
        return await pool.vms.set(vms[writer], other_config={"bench": str(next(numbers))})

    return write


@asynccontextmanager
async def _unary_writes(pool: PoolClient, endpoint: str, vms: Sequence[str]) -> AsyncIterator[Ask]:
    numbers = count()
    async with AsyncExitStack() as stack:
        stubs = [
            vm_service_pb2_grpc.VMServiceStub(
                await stack.enter_async_context(open_channel(endpoint))
            )
            for _ in vms
        ]

        async def write(writer: int) -> object:
            request = vm_service_pb2.UpdateVmRequest(
                request_id=request_id(pool.revision, secrets.token_hex(8)),
                vm=vms[writer],
                patch=patch_pb2.MetadataPatch(set_other_config={"bench": f"u{next(numbers)}"}),
            )
            return await stubs[writer].UpdateVm(request, timeout=10.0)

        yield write


def _section(loads: dict[tuple[str, int], Load]) -> Section:
    rows = tuple(
        (
            how,
            str(writers),
            per_second(load.rate),
            *load.latency.cells(),
        )
        for (how, writers), load in sorted(loads.items(), key=lambda item: _order(item[0]))
    )
    library, unary = (loads[how, max(WRITERS)] for how in ("Client library", "A call each"))
    empty, sqlite = loads["Empty calls", max(WRITERS)], loads["Bare SQLite", 1]
    return Section(
        title="Commits",
        method=METHOD,
        tables=[Table(("", "writers", "per second", "p50", "p99"), rows)],
        notes=[
            f"With {max(WRITERS)} writers the pool acknowledges {library.rate / sqlite.rate:.2f} "
            f"times as many commits as bare SQLite makes transactions. With a call each it is "
            f"bounded by what a call costs: even the empty server answers only "
            f"{per_second(empty.rate)}, and the pool reaches {unary.rate / empty.rate:.0%} of that."
        ],
        aims=[
            Aim(
                f"Commits with {max(WRITERS)} writers, through the client library",
                f"≥ {per_second(AIM_PER_SECOND)}",
                per_second(library.rate),
                library.rate >= AIM_PER_SECOND,
            )
        ],
    )


def _order(key: tuple[str, int]) -> tuple[int, int]:
    how, writers = key
    return ("Client library", "A call each", "Empty calls", "Bare SQLite").index(how), writers
