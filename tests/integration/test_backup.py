"""Backups of the metadata at real hosts: taking them, and restoring them."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.cli import Outcome, Pool
from support.daemons import SHARED_SRS, Cluster, Host, LocalHost
from support.wholeness import same_replicas

VMS = """
[[vm]]
name = "web1"
power_state = "running"
disk = [{ sr = "nfs-disks", size_mib = 10 }]
[[vm]]
name = "web2"
power_state = "halted"
disk = [{ sr = "nfs-disks", size_mib = 10 }]
"""

Ask = Callable[..., Any]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `pool` against a host while the hosts of the test go on."""

    async def run(host: Host, *arguments: str) -> Outcome:
        return await asyncio.to_thread(Pool(host.endpoint, capsys), *arguments)

    return run


async def pair(cluster: Cluster) -> tuple[LocalHost, LocalHost]:
    """A master with two VMs on shared storage, and a member."""
    phantom = cluster.local("phantom", sim=SHARED_SRS + VMS)
    ignite = cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
    await same_replicas(phantom, ignite)
    return phantom, ignite


async def done(ask: Ask, host: Host, *arguments: str) -> Outcome:
    outcome: Outcome = await ask(host, *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


async def test_what_people_set_is_restored_and_nothing_else(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    file = tmp_path / "pool.backup"
    await done(ask, phantom, "set", "name_label=production", "host_limit=12")
    await done(ask, phantom, "vm", "set", "web1", "tags+=prod", "other_config.owner=ops")
    wrote = await done(ask, ignite, "metadata", "backup", str(file))
    assert "of pool production" in wrote.out
    assert file.stat().st_mode & 0o777 == 0o600

    await done(ask, phantom, "set", "name_label=oops", "host_limit=64")
    await done(ask, phantom, "vm", "set", "web1", "tags-=prod", "tags+=wrong", "name_label=gone")
    await done(ask, phantom, "host", "set", "ignite", "failover_priority=7")

    dry = await done(ask, ignite, "metadata", "restore", str(file), "--dry-run")
    assert 'name_label: "oops" → "production"' in dry.out
    assert 'tags: ["wrong"] → ["prod"]' in dry.out
    assert "failover_priority: 7 → 100" in dry.out
    assert "would change 3 objects" in dry.err
    assert (await done(ask, phantom, "show", "-o", "json")).json["name_label"] == "oops"

    before = (await done(ask, phantom, "status", "-o", "json")).json["pool"]["revision"]
    told = (await done(ask, ignite, "metadata", "restore", str(file), "--yes", "-o", "json")).json
    assert (told["restored"], len(told["objects"]), told["left_alone"]) == (True, 3, [])
    assert told["revision"] > before
    pool = (await done(ask, phantom, "show", "-o", "json")).json
    assert (pool["name_label"], pool["host_limit"]) == ("production", 12)
    vm = (await done(ask, phantom, "vm", "show", "web1", "-o", "json")).json
    assert (vm["tags"], vm["other_config"]) == (["prod"], {"owner": "ops"})
    assert vm["power_state"] == "running"

    again = await done(ask, ignite, "metadata", "restore", str(file), "--yes")
    assert "nothing was changed" in again.err
    await same_replicas(phantom, ignite)
