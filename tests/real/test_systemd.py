"""A host that systemd has booted: its etcd is a service of its own, beside that of the daemon."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from poolcore.model import Host, TaskStatus
from poolcore.replica import State
from poolmember.etcd.launch import unit_name
from poolmember.etcd.member import EtcdMember
from poolmember.state_dir import ETCD_FOLDER
from support.api import Api
from support.booted import BootedMachine
from support.daemons import Cluster, Loopback, running_cluster
from support.etcd import etcd_binary
from support.lab_network import LabUnavailable
from support.own_etcd import kill_etcd, voters
from support.wholeness import at_rest

pytestmark = pytest.mark.real

PACKAGED = Path(__file__).parents[2] / "packaging" / "poolmember.service"
POOLMEMBER = Path(sys.executable).with_name("poolmember")
INSIDE = Path("/var/lib/poolmember", ETCD_FOLDER)
UNIT = unit_name(INSIDE)
NAMES = ("phantom", "ignite", "specter")
PATIENCE_SECONDS = 90.0


@dataclass
class Booted:
    """The host phantom, on a machine that systemd has booted."""

    machine: BootedMachine
    endpoint: str

    def systemctl(self, *args: str) -> None:
        self.machine.run("systemctl", *args)

    def pid(self, unit: str) -> str:
        return self.machine.shown(unit, "MainPID")

    async def until(self, unit: str, state: str, *, but: str = "") -> str:
        """Until a unit is active or inactive, with another process than `but`; its process."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = await asyncio.to_thread(self.machine.shown, unit, "ActiveState")
                pid = await asyncio.to_thread(self.pid, unit)
                if found == state and pid != but:
                    return pid
                await asyncio.sleep(0.1)


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[Booted]:
    endpoint = Loopback(net=9).endpoint()
    (tmp_path / "host.toml").write_text("")
    command = (
        f"{POOLMEMBER} run --name=phantom --listen={endpoint} --driver=sim:{tmp_path}/host.toml"
    )
    units = {
        "poolmember.service": PACKAGED.read_text(),
        # Both the program and what describes the host may be in /tmp.
        "poolmember.service.d/lab.conf": f"[Service]\nExecStart=\nExecStart={command}\n"
        "PrivateTmp=no\nProtectHome=no\n",
    }
    try:
        with BootedMachine(tmp_path, units) as machine:
            yield Booted(machine, endpoint)
    except LabUnavailable as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no machine with systemd can be made here: {reason}")
        pytest.skip(f"no machine with systemd can be made here: {reason}")


@pytest.fixture
async def others(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Hosts that no systemd has booted."""
    async with running_cluster(tmp_path, Loopback(net=8)) as cluster:
        yield cluster


async def test_an_etcd_of_its_own_unit_outlives_the_daemons(
    booted: Booted, others: Cluster
) -> None:
    if etcd_binary() is None:
        pytest.skip("etcd is not installed")
    machine = booted.machine
    booted.systemctl("start", "poolmember")
    ignite, specter = (others.process(name, options=["--voter"]) for name in NAMES[1:])
    await others.start()
    async with Api(booted.endpoint) as api:
        for host in (ignite, specter):
            await api.join(host.endpoint)
        await api.until(voted_by_all, seconds=PATIENCE_SECONDS)

    # It is in a unit of its own, with the daemon's limits.
    etcd = await booted.until(UNIT, "active")
    assert machine.shown(UNIT, "ControlGroup").endswith(f"/{UNIT}")
    assert "poolmember.service" in machine.shown(UNIT, "Before").split(), "it ends after the daemon"
    assert machine.run("cat", f"/proc/{etcd}/comm") == "etcd"
    daemon = booted.pid("poolmember")
    assert open_files(machine, etcd) == open_files(machine, daemon)
    group = machine.shown("poolmember", "ControlGroup")
    assert machine.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs") == daemon

    # A restart of the daemon, a kill of all that is in its unit, and a stop leave it alone.
    booted.systemctl("restart", "poolmember")
    assert booted.pid("poolmember") != daemon
    assert booted.pid(UNIT) == etcd
    daemon = booted.pid("poolmember")
    booted.systemctl("kill", "--signal=KILL", "--kill-who=all", "poolmember")
    await booted.until("poolmember", "active", but=daemon)
    assert booted.pid(UNIT) == etcd
    booted.systemctl("stop", "poolmember")
    assert booted.pid(UNIT) == etcd
    # With it and one of the others there is a quorum, and so a master.
    await specter.kill()
    kill_etcd(specter)
    async with ignite.api() as api:
        await api.until(lambda _: True, seconds=PATIENCE_SECONDS)
        await api.update_pool(add_tags=["without the daemon of phantom"])
    await specter.start()

    # What ends by itself is started again, in the same unit.
    booted.systemctl("start", "poolmember")
    booted.systemctl("kill", "--signal=KILL", UNIT)
    again = await booted.until(UNIT, "active", but=etcd)

    # One that was started in another way is found all the same.
    booted.systemctl("stop", "poolmember", UNIT)
    detached = start_detached(machine)
    booted.systemctl("start", "poolmember")
    async with Api(booted.endpoint) as api:
        await api.until(voted_by_all, seconds=PATIENCE_SECONDS)
        assert machine.run("cat", f"/proc/{detached}/comm") == "etcd"
        assert machine.units("poolmember-etcd-*") == []
        assert again != detached

        # It ends with its vote, in whichever way it was started; a unit leaves nothing.
        machine.run("kill", "-KILL", detached)
        await booted.until(UNIT, "active")
    async with ignite.api() as api:
        hosts = {h.name_label: h.uuid for h in (await api.state()).all(Host)}
        task = await api.ended(await api.eject_host(hosts["phantom"]))
    assert task.status is TaskStatus.SUCCESS, task
    await booted.until(UNIT, "inactive")
    assert machine.units("poolmember-etcd-*") == []
    assert not (machine.state_dir / ETCD_FOLDER).exists()


def voted_by_all(state: State) -> bool:
    return voters(state) == set(NAMES) and at_rest(state)


def open_files(machine: BootedMachine, pid: str) -> str:
    """How many files a process may have open."""
    limits = machine.run("cat", f"/proc/{pid}/limits").splitlines()
    return next(line for line in limits if line.startswith("Max open files"))


def start_detached(machine: BootedMachine) -> str:
    """Start the member as a daemon would that knows no systemd; its process, inside."""
    member = EtcdMember.load(machine.state_dir / ETCD_FOLDER)
    assert member is not None
    command = [etcd_binary() or "etcd", *member.arguments(INSIDE)]
    script = f"""
import subprocess
print(subprocess.Popen({json.dumps(command)}, cwd="{INSIDE}", start_new_session=True,
      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""
    return machine.run(sys.executable, "-c", script)
