"""From a commit to its being applied in every member, at a steady rate of commits."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench.figures import Aim, Section, Spread, Table, milliseconds
from bench.guests import add_guests
from bench.loads import Asked, opened
from bench.processes import answer, running
from bench.progress import tell
from bench.references import bare_streams
from poolclient import Committed, PoolClient
from poolcore.model import SR
from support.daemons import Loopback, ProcessHost, running_cluster
from support.etcd import EtcdCluster

RATE = 100
ETCD_RATE = 200
SECONDS = 10.0
LIGHT = 64
PROCESSES = 2
AIM_SECONDS = 0.020
AIM_ON_ETCD_SECONDS = 0.025
AIM_AFTER_ANSWER_SECONDS = 0.002

METHOD = f"""\
One daemon with members at it, and {RATE} commits a second by one client, at fixed times, for
{SECONDS:g} s: a late answer delays none of the following. *Acknowledged* is what the client waits
for and the reference of the rest. *Applied by the last* counts from when the commit was due to when
the last member had it, so it contains the commit itself; *after the answer* counts from when the
client had its answer.

The 2 members run what a member's daemon runs, a durable replica included, each in a process. The
{LIGHT} are light: each has a real session over a connection of its own, applies every commit to a
replica in memory and acknowledges; {PROCESSES} processes run {LIGHT // PROCESSES} of them each, and
decode a commit once for all of theirs. They share the processors with the daemon and the client,
and so wait for them: real hosts bring processors of their own."""


@dataclass(frozen=True, slots=True)
class Fed:
    """How soon commits were where."""

    acknowledged: Spread
    applied: Spread
    """By the last member."""
    after_answer: Spread


ON_ETCD = f"""\
As *Feeding members*, with the pool's store in a cluster of three etcd on loopback, and
{ETCD_RATE} commits a second."""


async def feeding(folder: Path) -> Section:
    """Run the part in `folder`."""
    found = await _feed(folder, Loopback(2), RATE)
    last = found[LIGHT].applied
    return Section(
        title="Feeding members",
        method=METHOD,
        tables=[_table(found)],
        aims=[_aim(f"Applied by the last of {LIGHT} members at {RATE} commits/s, p99",
                   last.p99, AIM_SECONDS)],
    )  # fmt: skip


async def feeding_on_etcd(folder: Path) -> Section:
    """Run the part in `folder`."""
    (folder / "etcd").mkdir()
    etcd = EtcdCluster(folder / "etcd", size=3)
    try:
        await etcd.start()
        url = f"etcd:{','.join(etcd.addresses)}"
        found = await _feed(folder, Loopback(6), ETCD_RATE, f"--store={url}")
    finally:
        etcd.kill()
    bare = await bare_streams(LIGHT, PROCESSES, SECONDS)
    return Section(
        title="Feeding members from etcd",
        method=ON_ETCD,
        tables=[_table(found)],
        notes=[_limit(bare)],
        aims=[
            _aim("On etcd: from the answer to its being applied at another host, p50",
                 found[2].after_answer.p50, AIM_AFTER_ANSWER_SECONDS),
            _aim(f"On etcd: applied by the last of {LIGHT} members at {ETCD_RATE} commits/s, p99",
                 found[LIGHT].applied.p99, AIM_ON_ETCD_SECONDS),
        ],
    )  # fmt: skip


async def _feed(folder: Path, loopback: Loopback, rate: float, *options: str) -> dict[int, Fed]:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running_cluster(folder, loopback))
        host = cluster.process("phantom", options=options)
        await host.start()
        await host.stop()
        guests = await add_guests(host.state_dir, LIGHT)
        await host.start()
        pool = await stack.enter_async_context(PoolClient.connect(host.endpoint))
        share = LIGHT // PROCESSES
        full = [("full_member", guest, str(_made(folder / guest))) for guest in guests[:2]]
        light = [("light_members", *guests[n : n + share]) for n in range(0, LIGHT, share)]
        return {2: await _fed(pool, host, full, rate), LIGHT: await _fed(pool, host, light, rate)}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _fed(
    pool: PoolClient, host: ProcessHost, processes: Sequence[tuple[str, ...]], rate: float
) -> Fed:
    """Measure with the members that these processes run: a module of this folder and its hosts."""
    async with AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(running(module, host.endpoint, pool.pool_uuid, *rest))
            for module, *rest in processes
        ]
        for process in started:
            await answer(process)
        commit = await _committer(pool)
        await opened(rate, 1.0, commit)
        asked = await opened(rate, SECONDS, commit)
        last = max(a.answer.revision for a in asked)
        notes: list[dict[str, float]] = [
            json.loads(await answer(process, str(last))) for process in started
        ]
    return _spreads(asked, notes)


async def _committer(pool: PoolClient) -> Callable[[], Awaitable[Committed[SR]]]:
    (sr, *_) = await pool.srs.list()
    numbers = count(pool.revision)

    async def commit() -> Committed[SR]:
        return await pool.srs.set(sr, other_config={"bench": str(next(numbers))})

    return commit


def _spreads(asked: Sequence[Asked[Committed[SR]]], notes: Sequence[dict[str, float]]) -> Fed:
    last = [max(note[str(a.answer.revision)] for note in notes) for a in asked]
    fed = Fed(
        acknowledged=Spread.of(a.answered - a.due for a in asked),
        applied=Spread.of(moment - a.due for a, moment in zip(asked, last, strict=True)),
        after_answer=Spread.of(
            max(0.0, moment - a.answered) for a, moment in zip(asked, last, strict=True)
        ),
    )
    tell(f"feeding: acknowledged {fed.acknowledged}, applied by the last {fed.applied}")
    return fed


def _table(found: dict[int, Fed]) -> Table:
    rows = tuple(
        (
            str(members),
            *fed.acknowledged.cells(),
            *fed.applied.cells(),
            *fed.after_answer.cells(),
        )
        for members, fed in found.items()
    )
    headings = (
        "members", "acknowledged p50", "p99", "applied by the last p50", "p99",
        "after the answer p50", "p99",
    )  # fmt: skip
    return Table(headings, rows)


def _limit(messages_per_second: float) -> str:
    messages = ETCD_RATE * LIGHT
    return (
        f"{ETCD_RATE} commits a second are {messages:,} messages to {LIGHT} members, if each is "
        "sent by itself. A gRPC server in Python that does nothing else gets "
        f"{messages_per_second:,.0f} a second to as many receivers, so that takes "
        f"{messages / messages_per_second:.0%} of what these processors have; besides, there are "
        "three etcd, what a commit costs, and what each member does with it. The pool sends a "
        "member that has not taken the last message yet all that has come since in one, so it "
        "falls behind by a few such rounds and no further. What would go beyond: members that "
        "pass commits on to others, so that the master sends to eight; it would cost a second "
        "kind of session, and a hop of delay."
    )


def _aim(figure: str, measured: float, most: float) -> Aim:
    return Aim(figure, f"≤ {milliseconds(most)}", milliseconds(measured), measured <= most)
