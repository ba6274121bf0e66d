"""Backups of the metadata at real hosts: taking them, and restoring them."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolcli.main import run
from poolclient import Conflict, PoolClient, read_backup
from poolcore.model import VM, Kind
from support.cli import Outcome, Pool
from support.daemons import Cluster, Host, LocalHost, ProcessHost
from support.wholeness import same_replicas

SRS = """
[[sr]]
name = "disks"
type = "nfs"
shared = true
"""
WEB1 = """
[[vm]]
name = "web1"
power_state = "running"
disk = [{ sr = "disks", size_mib = 10 }]
"""
WEB2 = WEB1.replace("web1", "web2")
WEB3 = WEB1.replace("web1", "web3")
DISK_OF_WEB2 = """
[[sr.image]]
name = "web2-vda.img"
size_mib = 10
"""
"""The image that the driver makes for that VM's disk, left behind without the VM."""
SECONDS = 20

Ask = Callable[..., Any]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `pool` against a host while the hosts of the test go on."""

    async def asked(host: Host, *arguments: str) -> Outcome:
        pool = Pool(host.endpoint, capsys)
        return await asyncio.to_thread(pool, f"--timeout={SECONDS}", *arguments)

    return asked


async def done(ask: Ask, host: Host, *arguments: str) -> Outcome:
    outcome: Outcome = await ask(host, *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


async def pair(cluster: Cluster) -> tuple[LocalHost, LocalHost]:
    """A master with VMs on shared storage, and a member."""
    phantom = cluster.local("phantom", sim=SRS + WEB1 + WEB2)
    return phantom, await joined(cluster, phantom)


async def joined(cluster: Cluster, master: Host) -> LocalHost:
    """A member of that host's pool, in step with it."""
    ignite = cluster.local("ignite")
    await cluster.start()
    async with master.api() as api:
        await api.join(ignite.endpoint)
        await api.quiet()
    await same_replicas(master, ignite)
    return ignite


# -- taking and reading one -----------------------------------------------------------------------


async def test_a_backup_can_be_read_with_every_daemon_off(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    file = tmp_path / "pool.backup"
    told = (await done(ask, ignite, "metadata", "backup", str(file), "-o", "json")).json
    status = (await done(ask, phantom, "status", "-o", "json")).json["pool"]
    assert told.pop("file") == str(file)
    assert (told["pool"]["uuid"], told["fresh"]) == (status["uuid"], True)
    assert told["revision"] <= status["revision"]
    assert file.stat().st_mode & 0o777 == 0o600
    for host in (phantom, ignite):
        await host.stop()

    shown = (await done(ask, phantom, "metadata", "show", str(file), "-o", "json")).json
    content = shown.pop("content")
    assert shown == told
    assert {host["name_label"] for host in content["host"]} == {"ignite", "phantom"}
    assert {vm["name_label"]: vm["power_state"] for vm in content["vm"]} == {
        "web1": "running",
        "web2": "running",
    }
    text = await done(ask, phantom, "metadata", "show", str(file))
    assert f"{told['revision']}, term" in text.out
    assert ["vm", "2"] in [row.split() for row in text.out.splitlines()]
    names = await done(ask, phantom, "metadata", "show", str(file), "-o", "name")
    assert "vm/web1" in names.out.splitlines()


async def test_a_host_without_a_master_gives_what_it_has_and_says_so(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    phantom: ProcessHost = cluster.process("phantom", sim=SRS + WEB1)
    ignite = await joined(cluster, phantom)
    await phantom.kill()
    file = tmp_path / "pool.backup"
    wrote = await done(ask, ignite, "metadata", "backup", str(file))
    assert "this answer is stale" in wrote.err
    shown = await done(ask, ignite, "metadata", "show", str(file), "-o", "json")
    assert not shown.json["fresh"]
    dry = await done(ask, ignite, "metadata", "restore", str(file), "--dry-run")
    assert "would change 0 objects" in dry.err
    refused = await ask(ignite, "--require-fresh", "metadata", "backup", str(file))
    assert refused.code == 6


async def test_a_backup_goes_to_standard_output_as_it_is(
    cluster: Cluster, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    phantom = cluster.local("phantom")
    await cluster.start()
    code = await asyncio.to_thread(run, ["--server", phantom.endpoint, "metadata", "backup", "-"])
    assert code == 0
    assert read_backup(capfdbinary.readouterr().out).header.pool_name == "phantom"


async def test_files_that_cannot_be_used_are_refused_with_the_reason(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    phantom = cluster.local("phantom")
    await cluster.start()
    file = tmp_path / "pool.backup"
    await done(ask, phantom, "metadata", "backup", str(file))
    file.write_bytes(file.read_bytes()[:-1])
    for command in (["show"], ["restore", "--dry-run"], ["restore", "--yes"]):
        refused = await ask(phantom, "metadata", *command, str(file), "-o", "json")
        assert refused.code == 1
        assert refused.error["code"] == "BACKUP_DAMAGED"
        assert refused.error["details"]["name"] == str(file)
    missing = await ask(phantom, "metadata", "show", str(tmp_path / "none"))
    assert (missing.code, "cannot be read" in missing.err) == (2, True)
    nowhere = await ask(phantom, "metadata", "backup", str(tmp_path / "none" / "file"))
    assert (nowhere.code, "cannot be written" in nowhere.err) == (2, True)


# -- restoring ------------------------------------------------------------------------------------


async def test_what_people_set_is_restored_and_nothing_else(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    file = tmp_path / "pool.backup"
    await done(ask, phantom, "set", "name_label=production", "host_limit=12")
    await done(ask, phantom, "vm", "set", "web1", "tags+=prod", "other_config.owner=ops")
    wrote = await done(ask, ignite, "metadata", "backup", str(file))
    assert "of pool production" in wrote.out

    await done(ask, phantom, "set", "name_label=oops", "host_limit=64")
    await done(ask, phantom, "vm", "set", "web1", "tags-=prod", "tags+=wrong", "name_label=gone")
    await done(ask, phantom, "host", "set", "ignite", "failover_priority=7")

    dry = await done(ask, ignite, "metadata", "restore", str(file), "--dry-run")
    assert 'name_label: "oops" → "production"' in dry.out
    assert 'tags: ["wrong"] → ["prod"]' in dry.out
    assert "failover_priority: 7 → 100" in dry.out
    assert "would change 3 objects" in dry.err
    assert (await done(ask, phantom, "show", "-o", "json")).json["name_label"] == "oops"

    asking = await ask(ignite, "metadata", "restore", str(file))
    assert (asking.code, "needs --yes" in asking.err) == (2, True)
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


async def test_a_vm_comes_back_as_a_record_if_its_disk_is_there_and_a_host_never_does(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    phantom = cluster.local("phantom", sim=SRS + WEB1 + WEB2 + WEB3)
    await joined(cluster, phantom)
    file = tmp_path / "pool.backup"
    await done(ask, phantom, "vm", "set", "web2", "tags+=prod")
    await done(ask, phantom, "metadata", "backup", str(file))
    async with phantom.api() as api:
        await api.eject("ignite")
        phantom.describe(SRS + DISK_OF_WEB2 + WEB1)
        await api.until(lambda state: sum(1 for _ in state.all(VM)) == 1)

    arguments = ("metadata", "restore", str(file), "--dry-run", "-o", "json")
    dry = (await done(ask, phantom, *arguments)).json
    alone = {(item["kind"], item["name_label"]): item["code"] for item in dry["left_alone"]}
    assert alone["host", "ignite"] == "HOST_NOT_IN_POOL"
    assert alone["vm", "web3"] == "NO_DISK_HERE"
    assert [item["outcome"] for item in dry["objects"]] == ["created"] * len(dry["objects"])
    assert not dry["restored"]

    text = await done(ask, phantom, "metadata", "restore", str(file), "--yes")
    assert "host  ignite" in text.out
    assert "none of them runs anywhere else" in text.err
    vms = (await done(ask, phantom, "vm", "list", "-o", "json")).json
    assert {vm["name_label"]: (vm["power_state"], vm["resident_on"] is None) for vm in vms} == {
        "web1": ("running", False),
        "web2": ("halted", True),
    }
    phantom.describe(SRS + WEB1 + WEB2)
    async with phantom.api() as api:
        state = await api.until(lambda state: all(vm.resident_on for vm in state.all(VM)))
    assert {vm.tags for vm in state.all(VM) if vm.name_label == "web2"} == {frozenset({"prod"})}


async def test_a_large_restore_goes_in_several_commits_and_may_be_repeated(
    cluster: Cluster,
) -> None:
    names = [f"vm{number:03}" for number in range(120)]
    sim = "".join(f'[[vm]]\nname = "{name}"\n' for name in names)
    phantom = cluster.local("phantom", sim=sim)
    await cluster.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        backup = await pool.backup()
        assert len(backup.state.tables[Kind.VM]) == 120
        await asyncio.gather(*(pool.vms.set(name, name_label=f"x{name}") for name in names))
        seen = list[float]()
        request_id = f"{pool.revision}-abcdefgh01"
        done = await pool.restore(backup, on_progress=seen.append, request_id=request_id)
        assert (done.changed, done.commits > 1) == (120, True)
        assert seen == sorted(seen)
        assert seen[-1] == 1.0
        assert sorted(vm.name_label for vm in await pool.vms.list()) == names

        # The same request finds what it has done, and does not do it again to what is newer.
        await pool.vms.set("vm000", name_label="renamed since")
        again = await pool.restore(backup, request_id=request_id)
        assert (await pool.vms.get("renamed since")).name_label == "renamed since"
        assert again.revision >= done.revision
        await pool.restore(backup)
        assert (await pool.vms.get("vm000")).name_label == "vm000"


async def test_a_restore_goes_on_under_the_next_master(cluster: Cluster, tmp_path: Path) -> None:
    names = [f"vm{number:03}" for number in range(200)]
    sim = "".join(f'[[vm]]\nname = "{name}"\n' for name in names)
    store = f"--store=sqlite://{tmp_path / 'pool.db'}"
    phantom = cluster.local("phantom", sim=sim, options=(store,))
    ignite = await joined(cluster, phantom)
    async with PoolClient.connect(phantom.endpoint, ignite.endpoint) as pool:
        backup = await pool.backup()
        await asyncio.gather(*(pool.vms.set(name, name_label=f"x{name}") for name in names))
        handover = list[asyncio.Task[None]]()

        async def designate() -> None:
            await (await pool.designate_master("ignite"))

        async with asyncio.TaskGroup() as tasks:

            def advanced(_: float) -> None:
                if not handover:
                    handover.append(tasks.create_task(designate()))

            done = await pool.restore(backup, on_progress=advanced)
        assert done.changed == 200
        assert sorted(vm.name_label for vm in await pool.vms.list()) == names
        status = await pool.status()
        assert status.master is not None
        assert status.master.name == "ignite"
    await same_replicas(phantom, ignite)


async def test_a_backup_of_another_pool_takes_consent(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    phantom, specter = cluster.local("phantom"), cluster.local("specter")
    await cluster.start()
    file = tmp_path / "pool.backup"
    await done(ask, phantom, "set", "name_label=production", "tags+=prod")
    await done(ask, phantom, "metadata", "backup", str(file))

    refused = await ask(specter, "metadata", "restore", str(file), "--yes", "-o", "json")
    assert refused.code == 5
    assert refused.error["code"] == "BACKUP_OF_ANOTHER_POOL"
    async with PoolClient.connect(specter.endpoint) as pool:
        with pytest.raises(Conflict):  # nor does the pool itself take it
            await pool.restore(read_backup(file.read_bytes()))
    dry = await done(ask, specter, "metadata", "restore", str(file), "--dry-run")
    assert "not of this one" in dry.err
    assert "HOST_NOT_IN_POOL" in dry.out

    arguments = ("restore", str(file), "--yes", "--accept-other-pool")
    await done(ask, specter, "metadata", *arguments)
    found = (await done(ask, specter, "show", "-o", "json")).json
    assert (found["name_label"], found["tags"]) == ("production", ["prod"])
    own = (await done(ask, phantom, "show", "-o", "json")).json
    assert own["uuid"] != found["uuid"]
    hosts = (await done(ask, specter, "host", "list", "-o", "json")).json
    assert [host["name_label"] for host in hosts] == ["specter"]


# -- those that hosts write by themselves ---------------------------------------------------------


async def test_every_host_writes_its_own_and_any_of_them_can_be_restored(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    pool = (await done(ask, phantom, "show", "-o", "json")).json
    found = []
    for host in (phantom, ignite):
        async with asyncio.timeout(2 * SECONDS):
            while not (found := await stored(ask, host)):  # noqa: ASYNC110 - files tell nobody
                await asyncio.sleep(0.2)
        assert Path(found[0]["path"]).parent == host.state_dir / "backups"
        assert (found[0]["pool"], found[0]["pool_name"]) == (pool["uuid"], "phantom")
    text = await done(ask, ignite, "metadata", "list")
    assert text.rows[0][0] == "MADE"
    assert found[0]["path"] in text.out

    await done(ask, phantom, "vm", "set", "web1", "name_label=oops")
    await done(ask, phantom, "metadata", "restore", found[0]["path"], "--yes")
    vms = (await done(ask, phantom, "vm", "list", "-o", "json")).json
    assert sorted(vm["name_label"] for vm in vms) == ["web1", "web2"]


async def stored(ask: Ask, host: Host) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await done(ask, host, "metadata", "list", "-o", "json")).json
    return found


async def test_when_hosts_write_them_is_a_setting_of_the_pool(cluster: Cluster, ask: Ask) -> None:
    phantom = cluster.local("phantom")
    await cluster.start()
    await done(ask, phantom, "set", "backup.interval_minutes=15", "backup.keep=4")
    found = (await done(ask, phantom, "show", "-o", "json")).json
    assert found["backup"] == {"interval_minutes": 15, "keep": 4, "keep_daily": 14}
    await done(ask, phantom, "set", "backup.interval_minutes=0")
    refused = await ask(phantom, "set", "backup.keep=0")
    assert (refused.code, "must be from 1 to 1,000" in refused.err) == (2, True)
