"""A pool of real libvirt hosts: who may join, and what the master knows of those who have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.lab import Lab, LabHost
from support.lab_guests import define_guest, start_guest, ticks
from support.lab_network import until
from support.pool_command import ask, ask_until, endpoint, pool

pytestmark = pytest.mark.real

GUEST = "5d4b9ac7-1f2e-4a55-8a3d-0000000000f1"
STORAGE_NET = "<network><name>storage-net</name><bridge name='virbr7'/></network>"


@pytest.fixture
def hosts(lab: Lab) -> Iterator[tuple[LabHost, LabHost, LabHost]]:
    """Three fresh hosts, each with its daemon: three pools of one."""
    phantom, ignite, specter = lab.add_hosts("phantom", "ignite", "specter")
    for host in (phantom, ignite, specter):
        host.start_poolmember()
    yield phantom, ignite, specter
    for host in (phantom, ignite, specter):
        lab.remove_host(host)


def names(objects: list[dict[str, Any]]) -> list[str]:
    return sorted(o["name_label"] for o in objects)


def contents(hosts: tuple[LabHost, ...]) -> list[Any]:
    """What the hosts' pools say they have."""
    return [ask(host, kind, "list") for host in hosts for kind in ("vm", "sr", "network", "pif")]


def join(master: LabHost, host: LabHost) -> None:
    answer = ask(master, "add-host", endpoint(host))
    assert answer["joined"]
    assert answer["host"]["name_label"] == host.name


def test_a_host_with_a_domain_a_network_and_a_pool_too_many_is_told_all_three_and_joins_without(
    hosts: tuple[LabHost, LabHost, LabHost],
) -> None:
    phantom, ignite, specter = hosts
    define_guest(ignite, "web1", uuid=GUEST)
    ignite.virsh("net-define", "/dev/stdin", input=STORAGE_NET)
    ignite.virsh("pool-define-as", "fast", "dir", "--target", "/var/lib/libvirt/fast")
    # Its own pool of one has them, of course.
    ask_until(ignite, "vm", "list", true=lambda found: names(found) == ["web1"])
    ask_until(ignite, "network", "list", true=lambda found: "storage-net" in names(found))
    ask_until(ignite, "sr", "list", true=lambda found: "fast" in names(found))
    before = contents(hosts)

    refused = pool(phantom, "add-host", endpoint(ignite))
    assert refused.returncode == 5
    answer = json.loads(refused.stdout)
    assert not answer["joined"]
    assert {(f["code"], f["subject"]) for f in answer["findings"]} == {
        ("JOINING_HOST_CANNOT_HAVE_VMS", "web1"),
        ("POOL_JOINING_HOST_HAS_NETWORKS", "storage-net"),
        ("JOINING_HOST_HAS_EXTRA_SRS", "fast"),
    }
    assert all("virsh" in f["remedy"] for f in answer["findings"])
    # Neither side was changed by that.
    assert names(ask(phantom, "host", "list")) == ["phantom"]
    assert contents(hosts) == before

    ignite.virsh("undefine", "web1")
    ignite.virsh("net-undefine", "storage-net")
    ignite.virsh("pool-undefine", "fast")
    join(phantom, ignite)
    join(phantom, specter)
    for host in hosts:
        ask_until(
            host,
            "host",
            "list",
            true=lambda found: names(found) == ["ignite", "phantom", "specter"],
        )


def test_the_master_knows_each_hosts_true_vms_networks_and_storage(
    hosts: tuple[LabHost, LabHost, LabHost],
) -> None:
    phantom, ignite, specter = hosts
    join(phantom, ignite)
    join(phantom, specter)
    uuids = {h["name_label"]: h["uuid"] for h in ask(phantom, "host", "list")}

    # Each host's own stock pool came along under its own uuid; the networks are one.
    expected = sorted(host.virsh("pool-uuid", "default") for host in hosts)
    for host in hosts:
        ask_until(
            host, "sr", "list", true=lambda found: sorted(sr["uuid"] for sr in found) == expected
        )
        assert names(ask(host, "network", "list")) == ["default", "eth0"]
    pifs = ask(phantom, "pif", "list")
    assert {(p["host"], p["device"], *p["addresses"]) for p in pifs} == {
        (uuids[host.name], "eth0", f"{host.address}/24") for host in hosts
    }

    # What happens on a member is known at the master, and at every other host.
    start_guest(ignite, "web1", uuid=GUEST)

    def of_the_guest(**fields: str) -> Any:
        return lambda found: any(
            vm["uuid"] == GUEST and fields.items() <= vm.items() for vm in found
        )

    running = of_the_guest(power_state="running", resident_on=uuids["ignite"], name_label="web1")
    for host in hosts:
        ask_until(host, "vm", "list", true=running)
    (vdi,) = ask(phantom, "vdi", "list")
    assert (vdi["name_label"], vdi["sr"]) == ("web1.img", ignite.virsh("pool-uuid", "default"))
    ignite.virsh("suspend", "web1")
    ask_until(specter, "vm", "list", true=of_the_guest(power_state="paused"))
    ignite.virsh("destroy", "web1")
    ask_until(phantom, "vm", "list", true=of_the_guest(power_state="halted"))
    ignite.virsh("undefine", "web1")
    ask_until(phantom, "vm", "list", true=lambda found: not found)

    specter.virsh("net-define", "/dev/stdin", input=STORAGE_NET)
    ask_until(
        phantom,
        "network",
        "list",
        true=lambda found: names(found) == ["default", "eth0", "storage-net"],
    )


def test_daemons_that_are_killed_or_upgraded_do_not_touch_guests(
    hosts: tuple[LabHost, LabHost, LabHost],
) -> None:
    phantom, ignite, _ = hosts
    join(phantom, ignite)
    image = start_guest(ignite, "web1", uuid=GUEST)
    assert ignite.poolmember is not None
    ignite.poolmember.kill()
    before = ticks(image)
    until(lambda: ticks(image) > before, seconds=5, what="the guest's next tick")
    assert ignite.virsh("domstate", "web1") == "running"
    ignite.start_poolmember()
    ask_until(
        phantom,
        "vm",
        "list",
        true=lambda found: [vm["power_state"] for vm in found] == ["running"],
    )


def test_libvirtd_may_go_and_come_back_under_the_daemon(
    hosts: tuple[LabHost, LabHost, LabHost],
) -> None:
    phantom, ignite, _ = hosts
    join(phantom, ignite)
    define_guest(ignite, "web1", uuid=GUEST)
    ask_until(phantom, "vm", "list", true=lambda found: names(found) == ["web1"])
    ignite.stop_libvirtd()
    # What was known stays known: no answer is not the answer "none".
    assert names(ask(phantom, "vm", "list")) == ["web1"]
    ignite.start_libvirtd()
    ignite.virsh("undefine", "web1")
    ask_until(phantom, "vm", "list", true=lambda found: not found)
    assert all(h["live"] for h in ask(phantom, "status")["hosts"])


def test_without_a_hypervisor_the_daemon_does_not_start_and_says_why(host: LabHost) -> None:
    host.stop_libvirtd()
    done = host.run(host.poolmember_command(), check=False)
    assert done.returncode == 2
    assert "There is no hypervisor at qemu:///system" in done.stderr
    assert "Traceback" not in done.stderr
