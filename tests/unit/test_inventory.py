"""Hosts arrive, report and leave: what the pool says of it, scenario by scenario."""

from dataclasses import replace
from datetime import timedelta

import pytest

from poolcore.facts import Inventory
from poolcore.model import (
    PBD,
    PIF,
    SR,
    VBD,
    VDI,
    VIF,
    VM,
    Host,
    HostId,
    HostMetrics,
    Kind,
    Network,
    PowerState,
    Task,
    TaskId,
)
from poolcore.replica import Change, Put, Remove, State
from poolmaster.decide.inventory import departed, joined, reported
from poolmember.drivers.sim_file import parse
from support.dangling import dangling
from support.hosts.facts import (
    NOW,
    after,
    facts,
    host_file,
    host_id,
    inventory,
    pool_of,
    with_live_hosts,
)

PHANTOM, IGNITE, SPECTER = (host_id(name) for name in ("phantom", "ignite", "specter"))
SHARED = host_file("three-shared")
WEB = "7a000000-0000-4000-8000-000000000001"


def found(name: str, text: str = "") -> Inventory:
    return inventory(name, parse(text, source=f"{name}.toml"))


def told(state: State, name: str, text: str = "", **others: str) -> State:
    return after(state, changes_of(state, name, text, **others))


def changes_of(state: State, name: str, text: str = "", **others: str) -> tuple[Change, ...]:
    last = {host_id(other): found(other, file) for other, file in others.items()}
    return reported(state, host_id(name), found(name, text), now=NOW, others=last)


def with_host_down(state: State, host: HostId) -> State:
    down = (replace(m, live=False) for m in state.all(HostMetrics) if m.host == host)
    return after(state, tuple(Put(m) for m in down))


def vm(state: str, *, extra: str = "") -> str:
    return f'[[vm]]\nname = "web1"\nuuid = "{WEB}"\npower_state = "{state}"\n{extra}'


def home(state: State) -> HostId | None:
    (only,) = state.all(VM)
    return only.resident_on


# -- arrival ---------------------------------------------------------------------------------------


def test_a_pool_with_six_srs_that_takes_in_a_host_with_three_has_nine() -> None:
    pool = pool_of(facts("phantom", SHARED))
    assert len(list(pool.all(SR))) == 6

    joint = pool_of(facts("phantom", SHARED), facts("ignite"))

    assert len(list(joint.all(SR))) == 9
    assert dangling(joint) == []


def test_srs_keep_their_uuids() -> None:
    ignite = facts("ignite")
    joint = pool_of(facts("phantom"), ignite)
    assert {sr.uuid for sr in ignite.inventory.srs()} <= {sr.uuid for sr in joint.all(SR)}


def test_the_default_network_becomes_the_pools_and_its_interface_follows() -> None:
    joint = pool_of(facts("phantom"), facts("ignite"))

    (network,) = joint.all(Network)
    assert {pif.network for pif in joint.all(PIF)} == {network.uuid}
    assert {pif.host for pif in joint.all(PIF)} == {PHANTOM, IGNITE}
    assert network.uuid in {n.uuid for n in facts("phantom").inventory.networks()}


def test_a_default_network_of_another_bridge_comes_along() -> None:
    joint = pool_of(facts("phantom"), facts("ignite", '[management]\nbridge = "br0"'))
    assert {network.bridge for network in joint.all(Network)} == {"xenbr0", "br0"}


def test_a_host_is_live_only_once_its_session_is_up() -> None:
    pool = pool_of(facts("phantom"))

    joint = after(pool, joined(pool, facts("ignite"), now=NOW))

    (metrics,) = (m for m in joint.all(HostMetrics) if m.host == IGNITE)
    assert not metrics.live
    assert metrics.last_updated == NOW


def test_a_founder_brings_its_vms_along() -> None:
    pool = pool_of(facts("phantom", vm("running", extra="[[vm.disk]]\n[[vm.nic]]")))

    assert home(pool) == PHANTOM
    (vbd,), (vif,) = pool.all(VBD), pool.all(VIF)
    assert pool.get(VDI, vbd.vdi)
    assert pool.get(Network, vif.network)


# -- reports ---------------------------------------------------------------------------------------


def test_an_equal_report_changes_nothing() -> None:
    pool = pool_of(facts("phantom", SHARED), facts("ignite"))
    assert changes_of(pool, "phantom", SHARED) == ()
    assert changes_of(pool, "ignite") == ()


def test_a_host_the_pool_does_not_have_changes_nothing() -> None:
    assert changes_of(pool_of(facts("phantom")), "ignite") == ()


def test_a_started_vm_is_one_change() -> None:
    pool = pool_of(facts("phantom", vm("halted")))

    (change,) = changes_of(pool, "phantom", vm("running"))

    assert isinstance(change, Put)
    assert isinstance(change.object, VM)
    assert change.object.power_state is PowerState.RUNNING


def test_an_undefined_vm_goes_with_its_disks_and_interfaces() -> None:
    pool = pool_of(facts("phantom", vm("halted", extra="[[vm.disk]]\n[[vm.nic]]")))

    changes = changes_of(pool, "phantom")

    removed = {c.kind for c in changes if isinstance(c, Remove)}
    assert removed == {Kind.VM, Kind.VBD, Kind.VIF, Kind.VDI}


def test_names_given_in_the_pool_stay_whatever_the_hypervisor_calls_it() -> None:
    pool = pool_of(facts("phantom", vm("halted")))
    (web,) = pool.all(VM)
    ours = replace(web, name_label="shop", tags=frozenset({"prod"}), name_description="the shop")
    pool = after(pool, (Put(ours),))

    pool = told(pool, "phantom", vm("running").replace("web1", "renamed"))

    (web,) = pool.all(VM)
    assert web == replace(ours, power_state=PowerState.RUNNING)


def test_more_memory_is_a_change_of_the_metrics_and_says_when() -> None:
    pool = pool_of(facts("phantom"))
    later = NOW + timedelta(hours=1)

    (change,) = reported(pool, PHANTOM, found("phantom", "[cpu]\nmemory_mib = 1"), now=later)

    assert isinstance(change, Put)
    assert isinstance(change.object, HostMetrics)
    assert change.object.memory_total == 1024**2
    assert change.object.last_updated == later


def test_a_new_hypervisor_version_is_a_change_of_the_host() -> None:
    pool = pool_of(facts("phantom"))
    pool = told(pool, "phantom", '[hypervisor]\nversion = "1.1"')
    assert pool.host(PHANTOM).hypervisor.version == "1.1"


def test_a_shared_sr_stays_when_one_host_loses_it() -> None:
    both = SHARED
    pool = told(pool_of(facts("phantom", SHARED), facts("ignite")), "ignite", both)
    (nfs,) = (sr for sr in pool.all(SR) if sr.name_label == "nfs-iso")
    assert {pbd.host for pbd in pool.all(PBD) if pbd.sr == nfs.uuid} == {PHANTOM, IGNITE}

    pool = told(pool, "phantom")

    assert pool.get(SR, nfs.uuid) == nfs
    assert {pbd.host for pbd in pool.all(PBD) if pbd.sr == nfs.uuid} == {IGNITE}


def test_in_a_pool_of_one_what_the_host_loses_is_lost() -> None:
    text = SHARED + '[[network]]\nname = "extra"\nbridge = "br9"'
    pool = pool_of(facts("phantom", text))

    pool = told(pool, "phantom")

    assert len(list(pool.all(SR))) == 3
    assert [network.bridge for network in pool.all(Network)] == ["xenbr0"]


def test_the_default_sr_is_none_once_it_is_gone() -> None:
    pool = pool_of(facts("phantom", SHARED))
    (nfs,) = (sr for sr in pool.all(SR) if sr.name_label == "nfs-vms")
    pool = after(pool, (Put(replace(pool.pool, default_sr=nfs.uuid)),))

    pool = told(pool, "phantom")

    assert pool.pool.default_sr is None


def test_hosts_that_see_shared_storage_differently_do_not_take_turns() -> None:
    more = SHARED.replace("size_mib = 650", "size_mib = 700")
    pool = pool_of(facts("phantom", SHARED), facts("ignite"))
    pool = told(pool, "ignite", SHARED)
    speaker, other = sorted(("phantom", "ignite"), key=host_id)

    assert changes_of(pool, other, more) == ()
    pool = told(pool, speaker, more)
    assert changes_of(pool, other, SHARED) == ()


def test_an_image_on_shared_storage_that_nobody_uses_goes_with_the_speakers_word() -> None:
    fewer = SHARED.replace("[[sr.image]]", "").replace('name = "debian-12.iso"', "")
    fewer = fewer.replace("size_mib = 650", "").replace("read_only = true", "")
    pool = told(pool_of(facts("phantom", SHARED), facts("ignite")), "ignite", SHARED)
    speaker, other = sorted(("phantom", "ignite"), key=host_id)

    assert list(told(pool, other, fewer).all(VDI))
    assert not list(told(pool, speaker, fewer).all(VDI))


def test_the_mtu_of_a_network_changes_once_all_hosts_have_changed() -> None:
    jumbo = "[management]\nmtu = 9000"
    pool = pool_of(facts("phantom"), facts("ignite"))

    pool = told(pool, "ignite", jumbo)
    assert [network.mtu for network in pool.all(Network)] == [1500]
    pool = told(pool, "phantom", jumbo)

    assert [network.mtu for network in pool.all(Network)] == [9000]
    assert {pif.mtu for pif in pool.all(PIF)} == {9000}


def test_a_host_that_joined_with_another_mtu_does_not_change_the_pools() -> None:
    pool = pool_of(facts("phantom"), facts("ignite", "[management]\nmtu = 9000"))
    assert [network.mtu for network in pool.all(Network)] == [1500]


def test_images_of_a_detached_sr_stay_known() -> None:
    image = '[[sr]]\nname = "Local storage"\n[[sr.image]]\nname = "golden"'
    detached = '[[sr]]\nname = "Local storage"\nattached = false'
    pool = pool_of(facts("phantom", image))

    pool = told(pool, "phantom", detached)

    assert [vdi.name_label for vdi in pool.all(VDI)] == ["golden"]
    assert not all(pbd.currently_attached for pbd in pool.all(PBD))


def test_a_hosts_sr_with_the_uuid_of_another_hosts_sr_is_left_out() -> None:
    pool = pool_of(facts("phantom"), facts("ignite"))
    (taken,) = (
        sr
        for sr in pool.all(SR)
        if sr.name_label == "Local storage"
        and sr.uuid in {o.uuid for o in facts("phantom").inventory.srs()}
    )

    pool = told(pool, "ignite", f'[[sr]]\nname = "mine"\ntype = "dir"\nuuid = "{taken.uuid}"')

    assert pool.get(SR, taken.uuid) == taken
    assert {pbd.host for pbd in pool.all(PBD) if pbd.sr == taken.uuid} == {PHANTOM}


# -- VMs that move ---------------------------------------------------------------------------------


def two_hosts(on_phantom: str) -> State:
    return told(pool_of(facts("phantom"), facts("ignite")), "phantom", on_phantom)


def test_a_vm_moves_to_the_host_that_runs_it() -> None:
    assert home(told(two_hosts(vm("running")), "ignite", vm("running"))) == IGNITE


@pytest.mark.parametrize("state", ["halted", "suspended", "paused"])
def test_a_definition_elsewhere_does_not_take_a_vm_from_a_live_host(state: str) -> None:
    assert changes_of(two_hosts(vm("running")), "ignite", vm(state)) == ()


@pytest.mark.parametrize(
    ("state", "expected"),
    [("running", IGNITE), ("paused", IGNITE), ("suspended", PHANTOM), ("halted", PHANTOM)],
)
def test_a_vm_of_a_lost_host_moves_to_where_it_is_in_memory(state: str, expected: HostId) -> None:
    pool = with_host_down(two_hosts(vm("running")), PHANTOM)
    assert home(told(pool, "ignite", vm(state))) == expected


def test_a_migration_keeps_what_administrators_wrote_whoever_reports_first() -> None:
    pool = two_hosts(vm("running", extra="[[vm.disk]]\n[[vm.nic]]"))
    (web,) = pool.all(VM)
    pool = after(pool, (Put(replace(web, name_label="shop", tags=frozenset({"prod"}))),))
    waiting = vm("paused", extra="[[vm.disk]]\n[[vm.nic]]")
    pool = told(pool, "ignite", waiting)

    pool = told(pool, "phantom", "", ignite=waiting)

    (web,) = pool.all(VM)
    assert (web.resident_on, web.name_label) == (IGNITE, "shop")
    assert web.tags == {"prod"}
    assert dangling(pool) == []
    pool = told(pool, "ignite", waiting.replace("paused", "running"), phantom="")
    assert home(pool) == IGNITE


def test_a_definition_left_behind_is_found_again_when_the_vm_is_removed_elsewhere() -> None:
    pool = two_hosts(vm("running"))

    pool = told(pool, "phantom", "", ignite=vm("halted"))

    (web,) = pool.all(VM)
    assert (web.resident_on, web.power_state) == (IGNITE, PowerState.HALTED)


# -- departure -------------------------------------------------------------------------------------


def test_a_departing_host_takes_its_local_srs_and_interfaces_and_copies_its_network() -> None:
    pool = pool_of(facts("phantom", SHARED), facts("ignite"))

    changes, along = departed(pool, IGNITE)

    assert len(list(after(pool, changes).all(SR))) == 6
    assert sum(isinstance(o, SR) for o in along) == 3
    (network,) = (o for o in along if isinstance(o, Network))
    assert pool.get(Network, network.uuid) == network
    assert {o.uuid for o in along if isinstance(o, PIF)} == {
        pif.uuid for pif in pool.all(PIF) if pif.host == IGNITE
    }
    (host,) = (o for o in along if isinstance(o, Host))
    assert host.name_label == "ignite"


def test_names_given_in_the_pool_go_along() -> None:
    pool = pool_of(facts("phantom"), facts("ignite"))
    (mine,) = (
        pool.get(SR, sr.uuid)
        for sr in facts("ignite").inventory.srs()
        if sr.name_label == "Local storage"
    )
    assert mine is not None
    pool = after(pool, (Put(replace(mine, name_label="ignite's disks")),))

    _, along = departed(pool, IGNITE)

    assert "ignite's disks" in {o.name_label for o in along if isinstance(o, SR)}


def test_a_network_that_came_with_the_host_stays_while_another_host_carries_it() -> None:
    bridge = '[management]\nbridge = "br0"'
    pool = pool_of(facts("phantom"), facts("ignite", bridge), facts("specter", bridge))

    changes, along = departed(pool, IGNITE)
    pool = after(pool, changes)

    assert {network.bridge for network in pool.all(Network)} == {"xenbr0", "br0"}
    assert {o.bridge for o in along if isinstance(o, Network)} == {"br0"}
    assert dangling(pool) == []


def test_tasks_about_a_departed_host_stay_as_history() -> None:
    task = Task(
        uuid=TaskId("7b000000-0000-4000-8000-000000000001"),
        name_label="Eject ignite",
        operation="host.eject",
        step="departed",
        created=NOW,
        subject=IGNITE,
    )
    pool = after(pool_of(facts("phantom"), facts("ignite")), (Put(task),))

    changes, _ = departed(pool, IGNITE)

    assert after(pool, changes).get(Task, task.uuid) == task


def test_a_departing_host_that_is_not_there_is_no_change() -> None:
    assert departed(pool_of(facts("phantom")), IGNITE) == ((), ())


def test_a_host_can_come_back() -> None:
    pool = pool_of(facts("phantom"), facts("ignite"))
    alone = after(pool, departed(pool, IGNITE)[0])

    again = with_live_hosts(after(alone, joined(alone, facts("ignite"), now=NOW)))

    assert again == pool


# -- size ------------------------------------------------------------------------------------------


def test_a_report_of_ten_thousand_vms_that_says_nothing_new_changes_nothing() -> None:
    text = '[[vm]]\nname = "vm"\ncount = 10_000\n[[vm.disk]]\n[[vm.nic]]'
    arriving = facts("phantom", text)
    pool = pool_of(arriving)

    # Comparing each VM with every other one would keep this busy for minutes.
    assert reported(pool, PHANTOM, arriving.inventory, now=NOW) == ()


# -- witnesses -------------------------------------------------------------------------------------


def test_a_witness_brings_nothing_in_and_reports_nothing_but_what_it_is() -> None:
    pool = pool_of(facts("phantom", SHARED))
    witness = replace(facts("ignite", SHARED + vm("running")), witness=True)
    joint = with_live_hosts(after(pool, joined(pool, witness, now=NOW)))
    host = joint.host(IGNITE)
    assert (host.witness, host.may_lead, host.failover_priority) == (True, False, 0)
    kinds = (SR, PBD, PIF, Network, VM, VBD, VIF)
    assert [list(joint.all(kind)) for kind in kinds] == [list(pool.all(kind)) for kind in kinds]
    assert changes_of(joint, "ignite", SHARED + vm("running")) == ()
    (change,) = changes_of(joint, "ignite", '[hypervisor]\nversion = "2.0"')
    assert isinstance(change, Put)
    assert isinstance(change.object, Host)


def test_a_vm_never_moves_to_a_witness() -> None:
    pool = pool_of(facts("phantom", vm("running")), replace(facts("ignite"), witness=True))
    gone = told(pool, "phantom", ignite=vm("running"))
    assert list(gone.all(VM)) == []


def test_a_witness_that_leaves_takes_only_itself_along() -> None:
    pool = pool_of(facts("phantom"), replace(facts("ignite"), witness=True))
    changes, along = departed(pool, IGNITE)
    assert {type(obj) for obj in along} == {Host, HostMetrics}
    assert len(changes) == 2
