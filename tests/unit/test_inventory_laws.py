"""The laws of arrival, report and departure, over many hosts and whatever they say."""

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from poolcore.facts import HostFacts, Inventory
from poolcore.model import (
    SR,
    VDI,
    VM,
    Described,
    HostId,
    HostMetrics,
    Kind,
    Network,
    Object,
    Pool,
    PowerState,
)
from poolcore.replica import CommitId, Put, Remove, State, dump, snapshot
from poolmaster.decide.holdings import held
from poolmaster.decide.inventory import departed, joined, reported
from support.dangling import dangling
from support.hosts.facts import NOW, after, empty_pool, facts, host_id, pool_of
from support.inventories import newcomers, report, seeds

HOSTS = ("phantom", "specter", "vector")
START = pool_of(*(facts(name) for name in HOSTS))

MANY = settings(max_examples=40)


@dataclass(frozen=True)
class Step:
    """A host reports; before that its session goes up or down."""

    name: str
    seed: int
    live: bool

    @property
    def host(self) -> HostId:
        return host_id(self.name)

    @property
    def inventory(self) -> Inventory:
        return report(self.host, self.seed)


steps = st.builds(Step, st.sampled_from(HOSTS), seeds, st.booleans())
histories = st.lists(steps, max_size=6)


def last_inventories(history: list[Step]) -> dict[HostId, Inventory]:
    return {step.host: step.inventory for step in history}


def played(history: list[Step], start: State = START) -> State:
    """The pool after these reports, each taken in knowing those before it."""
    state = start
    inventories: dict[HostId, Inventory] = {}
    for step in history:
        metrics = next(m for m in state.all(HostMetrics) if m.host == step.host)
        state = after(state, (Put(replace(metrics, live=step.live)),))
        inventory = step.inventory
        changes = reported(state, step.host, inventory, now=NOW, others=inventories)
        state = after(state, changes)
        inventories[step.host] = inventory
    return state


def renamed(state: State) -> State:
    """The pool after administrators have been at everything."""
    described = (o for o in state.objects() if isinstance(o, Described))
    return after(
        state,
        tuple(
            Put(replace(o, name_label=f"our {o.uuid}", tags=frozenset({"kept"}))) for o in described
        ),
    )


@MANY
@given(histories)
def test_no_report_leaves_a_reference_to_nothing(history: list[Step]) -> None:
    assert dangling(played(history)) == []


@MANY
@given(histories, steps)
def test_a_report_twice_is_a_report_once(history: list[Step], last: Step) -> None:
    state = played([*history, last])

    inventories = last_inventories(history)
    assert reported(state, last.host, last.inventory, now=NOW, others=inventories) == ()


@MANY
@given(histories)
def test_the_pool_has_exactly_the_vms_that_hosts_report(history: list[Step]) -> None:
    inventories = last_inventories(history).values()

    state = played(history)

    on_hosts = {vm.uuid for i in inventories for vm in i.objects if isinstance(vm, VM)}
    assert {vm.uuid for vm in state.all(VM)} == on_hosts


@MANY
@given(histories, steps)
def test_a_report_is_the_smallest_set_of_changes(history: list[Step], last: Step) -> None:
    state = played(history)

    inventories = last_inventories(history)
    changes = reported(state, last.host, last.inventory, now=NOW, others=inventories)

    touched = [
        (c.object.KIND, c.object.uuid) if isinstance(c, Put) else (c.kind, c.uuid) for c in changes
    ]
    assert len(set(touched)) == len(touched)
    for change in changes:
        if isinstance(change, Put):
            assert state.get(type(change.object), change.object.uuid) != change.object
        else:
            assert (change.kind, change.uuid) in state


@MANY
@given(histories, steps)
def test_what_administrators_wrote_survives_every_report(history: list[Step], last: Step) -> None:
    before = renamed(played(history))

    state = played([last], before)

    for obj in state.objects():
        known = before.get(type(obj), obj.uuid)
        if isinstance(obj, Described) and isinstance(known, Described):
            assert (obj.name_label, obj.tags) == (known.name_label, known.tags)


@MANY
@given(histories, steps)
def test_a_report_leaves_what_other_hosts_have_alone(history: list[Step], last: Step) -> None:
    before = played(history)

    state = played([last], before)

    for other in (host_id(host) for host in HOSTS if host != last.name):
        for (kind, uuid), obj in held(before, other).items():
            if kind is Kind.VM:
                # It moves only to where it runs, or where it is in memory when its host is lost.
                vm = state.get(VM, uuid)
                assert vm is not None
                assert vm == obj or vm.power_state in {PowerState.RUNNING, PowerState.PAUSED}
            elif kind not in {Kind.SR, Kind.VDI, Kind.VBD, Kind.VIF}:
                assert state.get(type(obj), uuid) == obj


@MANY
@given(histories, steps)
def test_networks_and_shared_storage_outlive_a_report(history: list[Step], last: Step) -> None:
    before = played(history)

    state = played([last], before)

    for network in before.all(Network):
        assert state.get(Network, network.uuid)
    for sr in before.all(SR):
        assert not sr.shared or state.get(SR, sr.uuid)


@MANY
@given(histories, newcomers("ignite"))
def test_joining_and_departing_restores_the_pool_exactly(
    history: list[Step], newcomer: HostFacts
) -> None:
    before = played(history)

    joint = after(before, joined(before, newcomer, now=NOW))
    changes, _ = departed(joint, newcomer.host)

    assert dangling(joint) == []
    assert dump(after(joint, changes)) == dump(before)


@MANY
@given(histories, newcomers("ignite"))
def test_the_first_report_after_joining_says_nothing_new(
    history: list[Step], newcomer: HostFacts
) -> None:
    before = played(history)
    state = after(before, joined(before, newcomer, now=NOW))

    changes = reported(state, newcomer.host, newcomer.inventory, now=NOW)

    # Now that it is in the pool, it may complete the agreement on a network's MTU.
    assert all(isinstance(c, Put) and isinstance(c.object, Network) for c in changes)


@MANY
@given(histories, steps, st.integers(0, 40))
def test_a_report_may_be_committed_in_parts(history: list[Step], last: Step, part: int) -> None:
    before = played(history)
    changes = reported(before, last.host, last.inventory, now=NOW)

    partly = after(before, changes[:part])
    rest = reported(partly, last.host, last.inventory, now=NOW)

    assert dangling(partly) == []
    assert after(partly, rest) == after(before, changes)


@MANY
@given(histories, newcomers("ignite"))
def test_a_joining_host_changes_nothing_that_is_there(
    history: list[Step], newcomer: HostFacts
) -> None:
    before = played(history)

    for change in joined(before, newcomer, now=NOW):
        assert isinstance(change, Put)
        assert (change.object.KIND, change.object.uuid) not in before


@MANY
@given(histories, st.sampled_from(HOSTS), st.data())
def test_a_departing_host_leaves_no_trace_but_what_is_shared(
    history: list[Step], name: str, data: st.DataObject
) -> None:
    before = played(history)
    srs = sorted(sr.uuid for sr in before.all(SR))
    default: Any = data.draw(st.sampled_from([None, *srs]))
    before = after(before, (Put(replace(before.pool, default_sr=default)),))
    host = host_id(name)

    changes, along = departed(before, host)
    state = after(before, changes)

    assert dangling(state) == []
    assert host not in dump(state)
    assert {o.uuid for o in state.all(SR)} >= {sr.uuid for sr in before.all(SR) if sr.shared}
    mentioned = {(c.kind, c.uuid) for c in changes if isinstance(c, Remove)}
    taken = {(o.KIND, o.uuid) for o in along}
    assert {k for k in mentioned if k[0] in {"host", "sr", "vdi", "pif", "vm"}} <= taken


@MANY
@given(histories, st.sampled_from(HOSTS))
def test_what_a_departing_host_takes_along_is_a_pool_of_its_own(
    history: list[Step], name: str
) -> None:
    before = played(history)

    _, along = departed(before, host_id(name))

    pool = empty_pool()
    own = snapshot(pool.incarnation, CommitId(1, 1), [*pool.all(Pool), *along], ())
    assert dangling(own) == []
    assert held(own, host_id(name)).keys() | {("host", host_id(name))} >= {
        (o.KIND, o.uuid) for o in along if not isinstance(o, HostMetrics)
    }


@MANY
@given(histories, newcomers("ignite"))
def test_a_host_that_leaves_keeps_its_storage_and_interfaces(
    history: list[Step], newcomer: HostFacts
) -> None:
    before = played(history)
    joint = after(before, joined(before, newcomer, now=NOW))

    _, along = departed(joint, newcomer.host)

    def of(kinds: tuple[type[Object], ...], objects: Any) -> set[str]:
        return {o.uuid for o in objects if isinstance(o, kinds)}

    kept = (SR, VDI)
    assert of(kept, along) == of(kept, newcomer.inventory.objects)


@MANY
@given(newcomers("ignite"))
def test_a_pool_that_is_founded_and_left_is_empty_again(newcomer: HostFacts) -> None:
    before = empty_pool()

    state = after(before, joined(before, newcomer, now=NOW))
    changes, along = departed(state, newcomer.host)

    assert dump(after(state, changes)) == dump(before)
    assert {o.uuid for o in along} == {o.uuid for o in state.objects()} - {state.pool.uuid}
