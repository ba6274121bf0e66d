"""The lab itself: what its hosts are, so that the other tests may rely on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.lab import Lab, LabHost
from support.lab_guests import start_guest, ticks
from support.lab_network import LabError, until

pytestmark = pytest.mark.real

GUEST = "5d4b9ac7-1f2e-4a55-8a3d-0000000000c1"


def test_hosts_see_each_other_and_nothing_beyond(lab: Lab) -> None:
    ignite, specter = lab.add_hosts("ignite", "specter")
    listener = specter.popen(
        [sys.executable, "-c", "import socket; socket.create_server(('', 7001)).accept()"]
    )
    until(lambda: specter.listens_on(7001), seconds=5, what="the listener")
    connect = ["timeout", "2", "bash", "-c", 'echo > "/dev/tcp/$0/$1"']
    ignite.run([*connect, "specter", "7001"])
    assert listener.wait() == 0
    assert ignite.run(["hostname"]).stdout.strip() == "ignite"
    outside = ignite.run([*connect, "192.0.2.1", "80"], check=False)
    assert outside.returncode != 0
    uuids = [host.virsh("capabilities").split("<uuid>")[1][:36] for host in (ignite, specter)]
    assert uuids == [ignite.uuid, specter.uuid]
    for host in (ignite, specter):
        lab.remove_host(host)


def test_without_power_guests_end_and_definitions_stay(host: LabHost) -> None:
    image = start_guest(host, "web1", uuid=GUEST)
    daemon = host.popen(["sleep", "1000"])
    host.power_off()
    assert daemon.poll() is not None
    stopped_at = ticks(image)
    host.power_on()
    assert host.virsh("domstate", "web1") == "shut off"
    assert host.virsh("net-list", "--name") == ""
    assert ticks(image) == stopped_at


def test_a_frozen_or_killed_daemon_does_not_touch_its_guests(host: LabHost) -> None:
    image = start_guest(host, "web1", uuid=GUEST)
    host.stop_libvirtd()
    before = ticks(image)
    until(lambda: ticks(image) > before, seconds=5, what="the guest's next tick")
    host.start_libvirtd()
    assert host.virsh("domstate", "web1") == "running"


def test_a_command_that_fails_says_what_it_said(host: LabHost) -> None:
    with pytest.raises(LabError, match="failed to get domain 'none'"):
        host.virsh("domstate", "none")
    assert host.run(["false"], check=False).returncode == 1


def test_a_process_inside_is_killed_itself_not_only_what_started_it(host: LabHost) -> None:
    process = host.popen(["sleep", "1000"])
    assert "sleep" in Path(f"/proc/{process.pid}/cmdline").read_text()
    process.kill()
    assert not Path(f"/proc/{process.pid}").exists()
