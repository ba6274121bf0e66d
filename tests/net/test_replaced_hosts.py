"""A host that is lost for good, and another one that takes its place: two commands of a person."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from net.misfortunes import FEW_CLIENTS, PATIENCE_SECONDS, go_on, on_own_etcd
from poolcore.model import Host, HostMetrics
from poolcore.replica import State
from support.marked_writes import writers
from support.netlab.command import command
from support.netlab.host import NetHost
from support.netlab.lab import NetLab
from support.own_etcd import VotingPool

pytestmark = pytest.mark.net

NO_MASTER = 6
"""What the command ends with."""


@on_own_etcd(spares=1)
@pytest.mark.parametrize(
    ("number", "forgets_first"),
    [(0, True), (1, True), (2, True), (0, False)],
    ids=["the master", "a member", "the other member", "the master, after it was replaced"],
)
async def test_with_two_commands_another_host_takes_the_place_of_one_that_is_lost(
    lab: NetLab, number: int, forgets_first: bool
) -> None:
    lost, (new,) = lab.hosts[number], lab.spares
    staying = lab.others(lost)
    commands = [("host", "forget", lost.name, "--yes"), ("add-host", new.endpoint)]
    async with lab.pool():
        await new.start()
        known = tuple(host.endpoint for host in staying)
        async with writers([known] * FEW_CLIENTS, to=staying[0].name) as book:
            await go_on(book)
            await lab.lose(lost)
            await VotingPool([*staying]).until(lambda state: not _is_live(state, lost.name))
            for one in commands if forgets_first else reversed(commands):
                await given(staying, *one)
            pool = VotingPool([*staying, new])
            await pool.voted_by(*(host.name for host in pool.hosts))
            await go_on(book)
        book.check(await pool.requests())
        status = (await command(pool.hosts, "status", "-o", "json")).json
        assert status["quorum"] == {"voters": 3, "needed": 2, "survives": 1}
        assert {host["name"] for host in status["hosts"]} == {host.name for host in pool.hosts}
        await pool.same_everywhere()


async def given(hosts: Sequence[NetHost], *arguments: str) -> None:
    """A command, repeated only if it finds no master: the store may be about to move."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (done := await command(hosts, *arguments)).code == NO_MASTER:
            pass
    assert done.code == 0, done


def _is_live(state: State, name: str) -> bool:
    live = {metrics.host for metrics in state.all(HostMetrics) if metrics.live}
    return any(host.name_label == name and host.uuid in live for host in state.all(Host))
