"""Hosts declared dead, forgotten or out of reach: what that changes, and what it leaves."""

from dataclasses import replace

import pytest
from immutables import Map

from poolcore.model import (
    PBD,
    PIF,
    SR,
    VDI,
    VM,
    Host,
    HostId,
    HostMetrics,
    Message,
    PowerState,
    SrId,
    Task,
    TaskId,
    TaskStatus,
)
from poolcore.replica import Put, State
from poolmaster.decide.gone import declared_dead, ejected_by, forgotten, heard, uncertain
from poolmaster.decide.holdings import metrics_of
from poolmaster.decide.inventory import reported
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
        ("spare", "halted", "Local storage"),
        ("saved", "suspended", "Local storage"),
    )
)


def pool() -> State:
    """Two hosts; the second one has all the guests."""
    joint = with_live_hosts(pool_of(facts("phantom", NFS), facts("ignite")))
    return report(joint, GUESTS)


def report(state: State, text: str) -> State:
    found = inventory("ignite", parse(text, source="ignite.toml"))
    return after(state, reported(state, IGNITE, found, now=NOW))


def dead(state: State) -> State:
    return after(state, declared_dead(state, IGNITE, now=NOW))


def vms(state: State) -> dict[str, tuple[PowerState, HostId | None]]:
    return {vm.name_label: (vm.power_state, vm.resident_on) for vm in state.all(VM)}


def metrics(state: State) -> HostMetrics:
    found = metrics_of(state, IGNITE)
    assert found is not None
    return found


# -- unknown ---------------------------------------------------------------------------------------


def test_what_ran_on_a_host_out_of_reach_is_unknown_until_it_reports() -> None:
    before = pool()
    doubtful = after(before, uncertain(before, {IGNITE}))
    assert vms(doubtful) == {
        "web": (PowerState.UNKNOWN, IGNITE),
        "idle": (PowerState.HALTED, IGNITE),
        "cache": (PowerState.UNKNOWN, IGNITE),
        "spare": (PowerState.HALTED, IGNITE),
        "saved": (PowerState.SUSPENDED, IGNITE),
    }
    assert uncertain(doubtful, {IGNITE}) == ()
    assert vms(report(doubtful, GUESTS)) == vms(before)


def test_hosts_within_reach_keep_their_vms_as_they_are() -> None:
    assert uncertain(pool(), {PHANTOM}) == ()


# -- declared dead ---------------------------------------------------------------------------------


@pytest.mark.parametrize("doubtful", [False, True])
def test_what_was_in_memory_of_a_dead_host_is_halted_and_nowhere(doubtful: bool) -> None:
    before = pool()
    if doubtful:
        before = after(before, uncertain(before, {IGNITE}))
    state = dead(before)
    assert vms(state) == {
        "web": (PowerState.HALTED, None),
        "idle": (PowerState.HALTED, IGNITE),
        "cache": (PowerState.HALTED, None),
        "spare": (PowerState.HALTED, IGNITE),
        "saved": (PowerState.SUSPENDED, IGNITE),
    }
    assert metrics(state).declared_dead
    assert not metrics(state).live
    (message,) = state.all(Message)
    assert (message.name, message.obj_uuid) == ("HOST_DECLARED_DEAD", IGNITE)
    assert "cache, web" in message.body or "web, cache" in message.body
    assert declared_dead(state, IGNITE, now=NOW) == ()


def test_a_dead_host_that_comes_back_is_dead_no_more_and_a_message_warns() -> None:
    state = dead(pool())
    back = after(state, heard(state, metrics(state), live=True, now=NOW))
    assert metrics(back).live
    assert not metrics(back).declared_dead
    assert {m.name for m in back.all(Message)} == {"HOST_DECLARED_DEAD", "HOST_CAME_BACK"}
    assert vms(report(back, GUESTS)) == vms(pool())


def test_a_host_that_was_not_declared_dead_comes_and_goes_without_a_message() -> None:
    state = pool()
    assert heard(state, metrics(state), live=False, now=NOW) == (
        Put(replace(metrics(state), live=False, last_updated=NOW)),
    )


def test_a_vm_that_was_started_elsewhere_stays_there_when_its_old_host_has_it_halted() -> None:
    state = dead(pool())
    web = next(vm for vm in state.all(VM) if vm.name_label == "web")
    started = replace(web, power_state=PowerState.RUNNING, resident_on=PHANTOM)
    state = after(state, (Put(started),))
    back = report(state, GUESTS.replace('"running"', '"halted"'))
    assert vms(back)["web"] == (PowerState.RUNNING, PHANTOM)


# -- forgotten -------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [False, True])
def test_a_forgotten_host_takes_only_what_nobody_else_can_have(declared: bool) -> None:
    state = dead(pool()) if declared else pool()
    local = {p.sr for p in state.all(PBD) if p.host == IGNITE} - {
        p.sr for p in state.all(PBD) if p.host == PHANTOM
    }
    found = forgotten(state, IGNITE, now=NOW)
    left = after(state, found.changes)

    assert [h.uuid for h in left.all(Host)] == [PHANTOM]
    assert metrics_of(left, IGNITE) is None
    assert IGNITE not in {p.host for p in left.all(PBD)} | {p.host for p in left.all(PIF)}
    assert local
    assert not local & {sr.uuid for sr in left.all(SR)}
    assert not local & {vdi.sr for vdi in left.all(VDI)}
    assert any(sr.shared for sr in left.all(SR))
    assert vms(left) == {
        "web": (PowerState.HALTED, None),
        "idle": (PowerState.HALTED, None),
    }
    assert dangling(left) == []
    assert found.removed[0].uuid == IGNITE
    assert len(found.removed) == len(state) - len(left) + len(list(left.all(Message))) - len(
        list(state.all(Message))
    )


def test_what_stays_can_be_listed_before() -> None:
    assert {vm.name_label for vm in forgotten(pool(), IGNITE, now=NOW).kept} == {"web", "idle"}
    with pytest.raises(KeyError):
        forgotten(pool(), HostId("nobody"), now=NOW)


def test_every_part_of_forgetting_leaves_whole_references() -> None:
    state = dead(pool())
    sr = next(s.uuid for s in state.all(SR) if not s.shared and _only_of(state, s.uuid))
    state = after(state, (Put(replace(state.pool, default_sr=sr)),))
    for change in forgotten(state, IGNITE, now=NOW).changes:
        state = after(state, (change,))
        assert dangling(state) == []
    assert state.pool.default_sr is None


def _only_of(state: State, sr: SrId) -> bool:
    return {p.host for p in state.all(PBD) if p.sr == sr} == {IGNITE}


def task(operation: str, step: str, status: TaskStatus) -> Task:
    return Task(
        uuid=TaskId(f"{operation} {step}"),
        name_label="a task",
        operation=operation,
        step=step,
        status=status,
        params=Map(host=IGNITE),
        created=NOW,
    )


def test_a_forgotten_host_is_not_told_that_it_was_ejected_once() -> None:
    ejected = task("host.eject", "evicted", TaskStatus.SUCCESS)
    tried = task("host.eject", "started", TaskStatus.FAILURE)
    state = after(pool(), (Put(ejected), Put(tried)))
    assert ejected_by(state, IGNITE) == ejected
    left = after(state, forgotten(state, IGNITE, now=NOW).changes)
    assert ejected_by(left, IGNITE) is None
    assert left.get(Task, tried.uuid) == tried


def test_a_join_that_waits_for_a_forgotten_host_has_failed() -> None:
    waiting = task("host.join", "committed", TaskStatus.PENDING)
    state = after(pool(), (Put(waiting),))
    ended = after(state, forgotten(state, IGNITE, now=NOW).changes).get(Task, waiting.uuid)
    assert ended is not None
    assert ended.status is TaskStatus.FAILURE
    assert ended.error is not None
    assert ended.error.reason == "HOST_FORGOTTEN"
