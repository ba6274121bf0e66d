"""Maintenance of hosts, between real daemons that share a store, and on the command line."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from poolclient import Conflict, PoolClient, PoolClientError
from poolcore.errors import Reason
from poolcore.model import TaskStatus
from poolmaster.operations.maintenance import Maintenance
from support.cli import Outcome, Pool
from support.daemons import WAIT_SECONDS, Cluster, Host, LocalHost, ProcessHost
from support.wholeness import same_replicas

WITH_VMS = "".join(
    f'[[vm]]\nname = "{name}"\npower_state = "{state}"\n'
    for name, state in (("web1", "running"), ("db", "paused"), ("old", "halted"))
)
POINTS = [
    *(f"{Maintenance.name}:{step.name}" for step in Maintenance.steps),
    "host.maintenance:writes-wait",
]


@asynccontextmanager
async def three(
    cluster: Cluster, folder: Path
) -> AsyncIterator[tuple[PoolClient, ProcessHost, ProcessHost, ProcessHost]]:
    """Three hosts on a shared store, phantom the master, and a client that knows them all."""
    phantom = cluster.process("phantom", options=[f"--store=sqlite://{folder / 'pool.db'}"])
    ignite, specter = cluster.process("ignite"), cluster.process("specter")
    hosts = (phantom, ignite, specter)
    await cluster.start()
    async with phantom.api() as api:
        for joining in hosts[1:]:
            await api.join(joining.endpoint)
        await api.in_step()
    async with PoolClient.connect(*(host.endpoint for host in hosts)) as pool:
        yield pool, *hosts


async def master_of(pool: PoolClient) -> str:
    """The name of the master, as soon as there is one."""
    async with asyncio.timeout(WAIT_SECONDS):
        # Whichever host answers, nobody tells when there is one.
        while (master := (await pool.status()).master) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return master.name


async def test_a_host_in_maintenance_leads_only_when_nobody_else_can(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with three(cluster, tmp_path) as (pool, phantom, ignite, specter):
        # It would be the best: the replicas are equal, and the others have a lower priority.
        await pool.hosts.set("ignite", failover_priority=1000)
        task = await (await pool.set_maintenance("ignite"))
        assert task.status is TaskStatus.SUCCESS
        status = await pool.status()
        assert {host.name for host in status.hosts if not host.enabled} == {"ignite"}
        assert [w.code for w in status.warnings] == ["HOST_IN_MAINTENANCE"]
        with pytest.raises(Conflict) as refused:
            _ = await pool.designate_master("ignite")
        assert refused.value.reason == Reason.HOST_DISABLED
        await same_replicas(phantom, ignite, specter)

        await phantom.kill()
        assert await master_of(pool) == "specter"
        # Nor does specter hand over to it while another is there.
        await phantom.start()
        await phantom.says("member, following")
        await specter.stop()
        assert await master_of(pool) == "phantom"
        # Better this one than none.
        await phantom.stop()
        assert await master_of(pool) == "ignite"
        assert (await (await pool.set_maintenance("ignite", False))).status is TaskStatus.SUCCESS
        assert (await pool.hosts.get("ignite")).enabled


async def test_a_master_hands_over_before_its_maintenance(cluster: Cluster, tmp_path: Path) -> None:
    async with three(cluster, tmp_path) as (pool, _, _, _):
        led = []
        for _ in range(2):
            led.append(master := await master_of(pool))
            task = await (await pool.set_maintenance(master))
            assert task.status is TaskStatus.SUCCESS
            assert not (await pool.hosts.get(master)).enabled
        # The last one has nobody left.
        last = await master_of(pool)
        assert {*led, last} == {"phantom", "ignite", "specter"}
        with pytest.raises(Conflict, match=r"is in maintenance; \w+ is in maintenance") as refused:
            _ = await pool.set_maintenance(last)
        assert refused.value.reason == Reason.NO_HOST_TO_LEAD
        assert (await pool.hosts.get(last)).enabled
        await (await pool.set_maintenance(last, force=True))
        assert await master_of(pool) == last
        assert not (await pool.hosts.get(last)).enabled


@pytest.mark.parametrize("point", POINTS)
async def test_a_master_dies_when_its_maintenance_has_come_to(
    point: str, cluster: Cluster, tmp_path: Path
) -> None:
    async with three(cluster, tmp_path) as (pool, phantom, _, _):
        phantom.kill_at(point)
        asked = f"{pool.revision}-maintainphantom"
        with suppress(PoolClientError):
            _ = await pool.set_maintenance("phantom", request_id=asked)
        assert await phantom.ended() == -signal.SIGKILL
        phantom.kill_at()
        assert await master_of(pool) in {"ignite", "specter"}
        # Whoever is master goes on with the task; asked again, the request finds it.
        task = await (await pool.set_maintenance("phantom", request_id=asked))
        assert task.status is TaskStatus.SUCCESS
        assert not (await pool.hosts.get("phantom")).enabled
        await phantom.start()
        await phantom.says("member, following")


# -- the command ----------------------------------------------------------------------------------

Ask = Callable[..., Any]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `pool` against a host while the hosts of the test go on."""

    async def run(host: Host, *arguments: str) -> Outcome:
        return await asyncio.to_thread(Pool(host.endpoint, capsys), *arguments)

    return run


async def pair(cluster: Cluster, *options: str) -> tuple[LocalHost, LocalHost]:
    """A master with VMs, and a member that is in step."""
    phantom = cluster.local("phantom", sim=WITH_VMS, options=options)
    ignite = cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        await api.in_step()
    await same_replicas(phantom, ignite)
    return phantom, ignite


async def test_the_command_names_the_vms_that_stay(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster, f"--store=sqlite://{tmp_path / 'pool.db'}")
    done = await ask(ignite, "host", "maintenance", "phantom")
    assert done.code == 0
    assert "phantom is in maintenance." in done.err
    assert "VMs run on it and were not moved: 2 (db, web1)." in done.err
    assert "still the master" not in done.err
    status = (await ask(ignite, "status", "-o", "json")).json
    assert status["master"]["name"] == "ignite"
    assert {h["name"]: h["enabled"] for h in status["hosts"]} == {"ignite": True, "phantom": False}
    (warning,) = status["warnings"]
    assert warning["code"] == "HOST_IN_MAINTENANCE"
    assert "VMs that run on it: 2 (db, web1)" in warning["message"]
    assert "`pool host maintenance phantom --off`" in warning["remedy"]
    assert "member, in maintenance" in (await ask(phantom, "status")).out
    refused = await ask(phantom, "designate-master", "phantom")
    assert refused.code == 5
    assert "`pool host maintenance phantom --off`" in refused.err

    off = await ask(phantom, "host", "maintenance", "phantom", "--off", "-o", "json")
    assert (off.code, off.json["status"], off.json["operation"]) == (
        0,
        "success",
        "host.maintenance",
    )
    assert (await ask(phantom, "status", "-o", "json")).json["warnings"] == []
    assert (await ask(phantom, "host", "maintenance", "nonesuch")).code == 3


async def test_a_master_whose_only_companion_is_a_witness_needs_force(
    cluster: Cluster, ask: Ask
) -> None:
    phantom = cluster.local("phantom", sim=WITH_VMS)
    specter = cluster.local("specter", options=["--witness"])
    await cluster.start()
    async with phantom.api() as api:
        await api.join(specter.endpoint)
        await api.in_step()
    refused = await ask(specter, "host", "maintenance", "phantom", "-o", "json")
    assert refused.code == 5
    assert refused.error["code"] == "NO_HOST_TO_LEAD"
    assert "specter is a witness" in refused.error["message"]
    forced = await ask(specter, "host", "maintenance", "phantom", "--force")
    assert forced.code == 0
    assert "It is still the master" in forced.err
    member = await ask(phantom, "host", "maintenance", "specter")
    assert member.code == 0
    assert "VMs run" not in member.err


async def test_a_master_that_has_the_store_hands_that_over_before_its_maintenance(
    cluster: Cluster, ask: Ask
) -> None:
    _, ignite = await pair(cluster)
    done = await ask(ignite, "host", "maintenance", "phantom")
    assert done.code == 0, done.err
    assert "still the master" not in done.err
    status = (await ask(ignite, "status", "-o", "json")).json
    assert status["master"]["name"] == "ignite"
    assert {h["name"]: h["enabled"] for h in status["hosts"]} == {"ignite": True, "phantom": False}
