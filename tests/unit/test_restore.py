"""What a restore brings back, what it leaves alone, and why."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from immutables import Map

from poolclient._backup import _groups, parts
from poolcore.model import (
    PBD,
    SR,
    VBD,
    VDI,
    VIF,
    VM,
    BackupSchedule,
    Described,
    FailoverTimings,
    Host,
    HostMetrics,
    Kind,
    Network,
    NetworkId,
    Object,
    Pool,
    PoolId,
    PowerState,
    SrId,
    VbdId,
    VbdType,
    VdiId,
    VifId,
)
from poolcore.replica import Put, Remove, State, changed
from poolcore.wire.codec import object_from_proto
from poolmaster.decide.gone import declared_dead, forgotten
from poolmaster.decide.inventory import reported
from poolmaster.decide.restore import (
    DISK_IN_USE,
    HOST_NOT_IN_POOL,
    NO_DISK_HERE,
    NOT_REPORTED,
    NOT_SETTABLE,
    SR_NOT_IN_POOL,
    Restoration,
    restoration,
)
from poolmember.drivers.sim_file import parse
from support.dangling import dangling
from support.hosts.facts import NOW, after, facts, host_id, inventory, pool_of, with_live_hosts

PHANTOM, IGNITE = host_id("phantom"), host_id("ignite")
NFS = """
[[sr]]
name = "nfs"
uuid = "30000000-0000-4000-8000-000000000003"
type = "nfs"
shared = true
"""
GUESTS = NFS + "".join(
    f"""
[[vm]]
name = "{name}"
power_state = "{state}"
disk = [{{ sr = "{sr}", size_mib = 10 }}]
"""
    for name, state, sr in (
        ("web", "running", "nfs"),
        ("idle", "halted", "nfs"),
        ("cache", "paused", "Local storage"),
        ("saved", "suspended", "nfs"),
    )
)

Change = Callable[[Any], Any]


def pool() -> State:
    """Two hosts; the second one has all the guests."""
    return reporting(with_live_hosts(pool_of(facts("phantom", NFS), facts("ignite"))), GUESTS)


def reporting(state: State, text: str) -> State:
    found = inventory("ignite", parse(text, source="ignite.toml"))
    return after(state, reported(state, IGNITE, found, now=NOW))


THEN = pool()


def named(state: State, cls: type[Any], name: str) -> Any:
    return next(o for o in state.all(cls) if o.name_label == name)


def with_changed(state: State, *objects: Object) -> State:
    return after(state, tuple(map(Put, objects)))


def restored(state: State, backup: State = THEN) -> State:
    return after(state, restoration(state, backup.objects()).changes)


def alone(found: Restoration) -> dict[tuple[Kind, str], str]:
    return {(item.kind, item.name_label): item.code for item in found.left_alone}


# -- settings -------------------------------------------------------------------------------------


def test_a_backup_onto_what_it_was_taken_of_changes_nothing_and_leaves_nothing_alone() -> None:
    found = restoration(THEN, THEN.objects())
    assert found.differences == []
    assert found.left_alone == []


def test_what_people_set_comes_back_and_what_hosts_report_stays() -> None:
    web = named(THEN, VM, "web")
    now = with_changed(
        THEN,
        replace(
            web,
            name_label="oops",
            name_description="?",
            tags=frozenset({"wrong"}),
            other_config=Map({"owner": "nobody"}),
            power_state=PowerState.PAUSED,
            resident_on=PHANTOM,
            memory_static_max=7,
        ),
        replace(named(THEN, SR, "nfs"), name_label="other", physical_utilisation=99),
        replace(THEN.host(IGNITE), failover_priority=3, enabled=False),
    )
    back = restored(now)
    assert back.get(VM, web.uuid) == replace(
        web, power_state=PowerState.PAUSED, resident_on=PHANTOM, memory_static_max=7
    )
    nfs = named(back, SR, "nfs")
    assert nfs.physical_utilisation == 99
    host = back.host(IGNITE)
    assert (host.failover_priority, host.enabled) == (100, False)


def test_the_pools_own_settings_come_back_and_nothing_else_of_it() -> None:
    nfs = named(THEN, SR, "nfs").uuid
    then = with_changed(THEN, replace(THEN.pool, name_label="production", default_sr=nfs))
    changed_since = replace(
        then.pool,
        name_label="oops",
        default_sr=None,
        host_limit=3,
        failover=FailoverTimings(suspect_seconds=9.0, alive_seconds=9.0),
        backup=BackupSchedule(keep=5),
        in_step=IGNITE,
        history_revisions=77,
    )
    back = restored(with_changed(then, changed_since), then).pool
    assert back == replace(then.pool, in_step=IGNITE, history_revisions=77)


def test_what_is_newer_than_the_backup_stays_as_it_is() -> None:
    now = reporting(THEN, GUESTS + '[[vm]]\nname = "newer"\n')
    new = named(now, VM, "newer")
    assert restored(now).get(VM, new.uuid) == new


def test_a_witness_stays_one_that_never_leads() -> None:
    now = with_changed(THEN, replace(THEN.host(IGNITE), witness=True, failover_priority=0))
    assert restored(now).host(IGNITE) == now.host(IGNITE)


def test_a_value_that_nobody_could_set_is_left_alone_with_the_reason() -> None:
    web = named(THEN, VM, "web")
    then = with_changed(THEN, replace(web, name_label="a\x07b", tags=frozenset({"prod"})))
    found = restoration(THEN, then.objects())
    assert found.differences == []
    (item,) = found.left_alone
    assert (item.uuid, item.code) == (web.uuid, NOT_SETTABLE)
    assert "control character" in item.explanation


def test_a_default_sr_that_is_gone_does_not_keep_the_rest_from_coming_back() -> None:
    gone = replace(THEN.pool, name_label="production", default_sr=SrId("gone"))
    found = restoration(THEN, [gone])
    assert found.changes == (Put(replace(THEN.pool, name_label="production")),)
    assert alone(found) == {(Kind.POOL, "production"): SR_NOT_IN_POOL}


def test_tasks_messages_and_live_facts_are_no_matter_of_a_restore() -> None:
    now = with_changed(THEN, *(replace(m, live=False) for m in THEN.all(HostMetrics)))
    now = after(now, declared_dead(now, IGNITE, now=NOW))
    back = restoration(now, THEN.objects())
    assert back.differences == []


# -- what is not there ----------------------------------------------------------------------------


def without_ignite() -> State:
    dead = after(THEN, declared_dead(THEN, IGNITE, now=NOW))
    return after(dead, forgotten(dead, IGNITE, now=NOW).changes)


def test_a_host_that_left_is_not_conjured_up_nor_what_only_it_had() -> None:
    now = without_ignite()
    found = restoration(now, THEN.objects())
    told = alone(found)
    assert told[Kind.HOST, "ignite"] == HOST_NOT_IN_POOL
    assert told[Kind.SR, "Local storage"] == NOT_REPORTED
    assert told[Kind.VM, "cache"] == NO_DISK_HERE
    back = after(now, found.changes)
    assert back.get(Host, IGNITE) is None
    assert all(pbd.host == PHANTOM for pbd in back.all(PBD))


def gone(state: State, *names: str) -> State:
    """The pool when its host no longer has these VMs."""
    uuids = {vm.uuid for vm in state.all(VM) if vm.name_label in names}
    own = [p for p in state.objects() if isinstance(p, VBD | VIF) and p.vm in uuids]
    removals = [Remove(p.KIND, p.uuid) for p in own] + [Remove(Kind.VM, u) for u in uuids]
    return after(state, tuple(removals))


@pytest.mark.parametrize("name", ["web", "idle", "saved"])
def test_a_vm_whose_disk_is_there_comes_back_halted_and_on_no_host(name: str) -> None:
    before = named(THEN, VM, name)
    back = restored(gone(THEN, name))
    vm = named(back, VM, name)
    assert vm == replace(before, power_state=PowerState.HALTED, resident_on=None)
    assert {v for v in back.all(VBD) if v.vm == vm.uuid} == {
        v for v in THEN.all(VBD) if v.vm == vm.uuid
    }
    assert not dangling(back)


def test_a_vm_that_came_back_is_its_hosts_again_once_that_reports_it() -> None:
    back = restored(gone(THEN, "web"))
    vm = named(reporting(back, GUESTS), VM, "web")
    assert (vm.power_state, vm.resident_on) == (PowerState.RUNNING, IGNITE)


def test_a_vm_comes_back_with_references_only_to_what_is_there() -> None:
    web = named(THEN, VM, "web")
    network = next(iter(THEN.all(Network)))
    vif = VIF(uuid=VifId("vif"), vm=web.uuid, network=NetworkId("gone"), device="0")
    kept = VIF(uuid=VifId("kept"), vm=web.uuid, network=network.uuid, device="1")
    second = VBD(uuid=VbdId("second"), vm=web.uuid, vdi=VdiId("gone"), device="sdb")
    back = restored(gone(THEN, "web"), with_changed(THEN, vif, kept, second))
    assert not dangling(back)
    assert back.get(VIF, "vif") == replace(vif, network=None)
    assert back.get(VIF, "kept") == kept
    assert back.get(VBD, "second") == replace(second, vdi=None)


def test_a_vm_whose_disk_another_one_has_by_now_stays_away() -> None:
    web, idle = named(THEN, VM, "web"), named(THEN, VM, "idle")
    disk = next(v for v in THEN.all(VBD) if v.vm == web.uuid)
    now = with_changed(gone(THEN, "web"), replace(disk, uuid=VbdId("taken"), vm=idle.uuid))
    found = restoration(now, THEN.objects())
    assert alone(found) == {(Kind.VM, "web"): DISK_IN_USE}
    assert idle.uuid in found.left_alone[0].explanation
    reading = with_changed(now, replace(disk, uuid=VbdId("taken"), vm=idle.uuid, read_only=True))
    assert restoration(reading, THEN.objects()).left_alone == []


def test_of_two_vms_on_one_disk_only_one_comes_back() -> None:
    web, idle = named(THEN, VM, "web"), named(THEN, VM, "idle")
    disks = {v.vm: v for v in THEN.all(VBD) if v.type is VbdType.DISK}
    then = with_changed(THEN, replace(disks[idle.uuid], vdi=disks[web.uuid].vdi))
    found = restoration(gone(THEN, "web", "idle"), then.objects())
    assert list(alone(found).values()) == [DISK_IN_USE]
    assert sum(isinstance(change.object, VM) for change in found.changes) == 1


# -- laws -----------------------------------------------------------------------------------------

texts = st.sampled_from(["", "a", "b", "production"])
edits: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "name_label": st.sampled_from(["a", "b"]),
        "name_description": texts,
        "tags": st.frozensets(st.sampled_from("xyz")),
        "other_config": st.dictionaries(st.sampled_from("kl"), texts).map(Map),
    },
)
DESCRIBED = [o for o in THEN.objects() if isinstance(o, Described)]
VMS = sorted(vm.name_label for vm in THEN.all(VM))


@st.composite
def later(draw: st.DrawFn) -> State:
    """The pool after some time: edited, VMs gone, perhaps without the host that had them."""
    state = without_ignite() if draw(st.booleans()) else THEN
    state = gone(state, *draw(st.sets(st.sampled_from(VMS))))
    for obj in draw(st.lists(st.sampled_from(DESCRIBED), max_size=5)):
        known = state.get(type(obj), obj.uuid)
        if known is not None:
            state = with_changed(state, replace(known, **draw(edits)))
    return state


@given(later())
def test_settings_of_whatever_is_there_are_those_of_the_backup_afterwards(now: State) -> None:
    back = restored(now)
    assert not dangling(back)
    for then in DESCRIBED:
        found = back.get(type(then), then.uuid)
        if found is not None:
            assert settings_of(found) == settings_of(then)


@given(later())
def test_what_was_restored_restored_again_changes_nothing(now: State) -> None:
    assert restoration(restored(now), THEN.objects()).differences == []


@given(later())
def test_nothing_that_is_live_changes_and_no_vm_runs_because_of_it(now: State) -> None:
    back = restored(now)
    for obj in now.objects():
        found = back.get(type(obj), obj.uuid)
        assert found is not None
        if not isinstance(obj, Described):
            assert found == obj
    for vm in back.all(VM):
        known = now.get(VM, vm.uuid)
        if known is None:
            assert (vm.power_state, vm.resident_on) == (PowerState.HALTED, None)
        else:
            assert (vm.power_state, vm.resident_on) == (known.power_state, known.resident_on)


@given(later(), st.integers(1, 8))
def test_how_it_is_divided_makes_no_difference(now: State, together: int) -> None:
    groups = list(_groups(THEN))
    state = now
    for begin in range(0, len(groups), together):
        part = [obj for group in groups[begin : begin + together] for obj in group]
        state = after(state, restoration(state, part).changes)
    assert state.tables == restored(now).tables


@given(later())
def test_into_another_pool_it_is_the_same(now: State) -> None:
    def of_another(state: State) -> State:
        tables = changed(state.tables, [Remove(Kind.POOL, state.pool.uuid)])
        pool = replace(state.pool, uuid=PoolId("b1000000-0000-4000-8000-000000000000"))
        return replace(state, tables=changed(tables, [Put(pool)]))

    there = of_another(now)
    assert restored(there).tables == of_another(restored(now)).tables


def settings_of(obj: Described) -> tuple[Any, ...]:
    return obj.name_label, obj.name_description, obj.tags, dict(obj.other_config)


# -- parts ----------------------------------------------------------------------------------------


def objects_of(part: Sequence[Any]) -> list[Object]:
    return [object_from_proto(message) for message in part]


def test_a_backup_goes_in_parts_that_keep_a_vm_together() -> None:
    vdi = next(iter(THEN.all(VDI)))
    many = [replace(vdi, uuid=VdiId(f"00000000-0000-4000-8000-{n:012}")) for n in range(250)]
    found = [objects_of(part) for part in parts(with_changed(THEN, *many))]
    assert len(found) > 2
    assert all(len(part) <= 100 for part in found)
    assert sum(isinstance(obj, VDI) for part in found for obj in part) == 250 + len(
        list(THEN.all(VDI))
    )
    for part in found:
        vms = {obj.uuid for obj in part if isinstance(obj, VM)}
        assert {obj.vm for obj in part if isinstance(obj, VBD | VIF)} <= vms


def test_parts_have_what_can_be_restored_and_are_the_same_each_time() -> None:
    first, again = list(parts(THEN)), list(parts(THEN))
    assert first == again
    kinds = {type(obj) for part in first for obj in objects_of(part)}
    assert kinds <= {Pool, Host, SR, VDI, Network, VM, VBD, VIF}
