"""The pool's own etcd loses its quorum for good: a person goes on with what the survivors have."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from poolclient import PoolClient
from poolcore.model import Message
from poolcore.replica import State
from poolmember.emergency import EMERGENCY_TRANSITION
from poolmember.etcd.member import DATA_FOLDER
from poolmember.etcd.wal import FOLDER
from poolmember.state_dir import ETCD_FOLDER
from support.cli import Outcome, Pool
from support.daemons import Cluster, ProcessHost
from support.own_etcd import MOVE_SECONDS, NAMES, VotingPool, power_cut, voters, voting_pool
from support.wholeness import at_rest

pytestmark = pytest.mark.etcd

TRANSITION = "emergency-transition-to-master"
Ask = Callable[..., Any]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `pool` against a host while the hosts of the test go on."""

    async def run(host: ProcessHost, *arguments: str) -> Outcome:
        return await asyncio.to_thread(Pool(host.endpoint, capsys), *arguments)

    return run


async def only_on_a_disk(pool: VotingPool, lag: list[ProcessHost], mark: str) -> int:
    """Have a write acknowledged that those hosts have on their etcd's disks at most.

    Afterwards no host has power. Returns the revision.
    """
    for host in lag:
        host.signal(signal.SIGSTOP)
        await host.stopped()
    others = [host for host in pool.hosts if host not in lag]
    async with PoolClient.connect(*(host.endpoint for host in others)) as client:
        told = await client.set(name_description=mark)
    async with asyncio.timeout(MOVE_SECONDS):
        for host in lag:
            # A file tells nobody that it has changed.
            while has_etcd(host) and not on_disk(host, mark):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
    for host in (*others, *lag):
        await power_cut(host)
    return told.revision


def has_etcd(host: ProcessHost) -> bool:
    return (host.state_dir / ETCD_FOLDER).exists()


def on_disk(host: ProcessHost, mark: str) -> bool:
    log = host.state_dir / ETCD_FOLDER / DATA_FOLDER / FOLDER
    return any(mark.encode() in path.read_bytes() for path in log.glob("*.wal"))


async def started(*hosts: ProcessHost) -> None:
    """Start hosts that find no quorum."""
    for host in hosts:
        await host.begin()
    await asyncio.gather(*(host.says("") for host in hosts))


def transitions(state: State) -> list[str]:
    return [m.body for m in state.all(Message) if m.name == EMERGENCY_TRANSITION]


async def test_what_only_the_disk_of_the_survivor_s_etcd_has_is_there_afterwards(
    cluster: Cluster, ask: Ask
) -> None:
    async with voting_pool(cluster) as pool:
        await pool.voted_by(*NAMES)
        await pool.same_everywhere()
        master = await pool.master()
        survivor = next(host for host in pool.hosts if host is not master)
        revision = await only_on_a_disk(pool, [survivor], "acknowledged")

        await started(survivor)
        status = (await ask(survivor, "status", "-o", "json")).json
        assert status["pool"]["engine"] == "etcd"
        assert status["quorum"] == {"voters": 3, "needed": 2, "survives": 0}
        assert f"--server {survivor.endpoint} {TRANSITION}`" in status["warnings"][0]["remedy"]
        told = " ".join((await ask(survivor, "status")).out.split())
        assert "2 of 3 needed; this host cannot tell if they are there" in told
        shown = (await ask(survivor, TRANSITION, "-o", "json")).json["outlook"]
        assert shown["revision"] < revision
        assert (shown["tail_from"], shown["may_lack"]) == (survivor.name, True)
        assert shown["revision"] + shown["tail_commits"] >= revision
        told = await ask(survivor, TRANSITION)
        assert f"The disk of {survivor.name}'s etcd has" in " ".join(told.out.split())
        refused = await ask(survivor, TRANSITION, "--yes", "-o", "json")
        assert (refused.code, refused.error["code"]) == (5, "LOSS_NOT_ACCEPTED")
        done = await ask(survivor, TRANSITION, "--yes", "--accept-loss", "-o", "json")
        assert done.code == 0, done.err

        async with survivor.api() as api:
            state = await api.until(lambda s: bool(transitions(s)))
        assert state.pool.name_description == "acknowledged"
        assert state.incarnation.forked_at == shown["revision"]
        assert f"on the disk of {survivor.name}'s etcd" in transitions(state)[0]

        # The others come back, a majority of the etcd that was: they follow, and vote again.
        life = state.incarnation.counter
        pool.hosts.remove(survivor)
        pool.hosts.insert(0, survivor)
        for host in pool.hosts[1:]:
            await host.start()
        state = await pool.until(lambda s: voters(s) == set(NAMES))
        assert state.incarnation.counter > life
        assert state.pool.name_description == "acknowledged"
        await pool.same_everywhere()


async def test_the_disk_of_another_voter_in_reach_is_read_as_well(
    cluster: Cluster, ask: Ask
) -> None:
    async with voting_pool(cluster, *NAMES, "wraith") as pool:
        await pool.until(lambda s: voters(s) is not None and at_rest(s))
        await pool.same_everywhere()
        async with pool.hosts[0].api() as api:
            voting = voters(await api.state()) or set()
        master = await pool.master()
        member = next(host for host in pool.hosts if host.name not in voting)
        voter = next(host for host in pool.hosts if host.name in voting and host is not master)
        revision = await only_on_a_disk(pool, [voter, member], "acknowledged")

        await started(member, voter)
        shown = (await ask(member, TRANSITION, "-o", "json")).json["outlook"]
        assert shown["tail_from"] == voter.name
        assert shown["revision"] + shown["tail_commits"] >= revision
        done = await ask(member, TRANSITION, "--yes", "--accept-loss", "-o", "json")
        assert done.code == 0, done.err
        for host in (member, voter):
            async with host.api() as api:
                await api.until(lambda s: s.pool.name_description == "acknowledged")
        async with PoolClient.connect(member.endpoint, voter.endpoint) as client:
            await client.set(name_label="goes on")
