"""A report that is compared once and committed in parts, while other things happen."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from poolcore.facts import Inventory
from poolcore.model import SR, VM, Described, HostId, HostMetrics, PowerState, VmId
from poolcore.replica import Put, Remove, State
from poolmaster.decide.inventory import reported
from poolmaster.decide.report_plan import ReportPlan
from support.dangling import dangling
from support.hosts.facts import NOW, after, facts, host_id, pool_of
from support.inventories import report, seeds

HERE, THERE = host_id("phantom"), host_id("specter")
START = pool_of(facts("phantom"), facts("specter"))
MANY = settings(max_examples=60)


def compared(state: State, inventory: Inventory) -> ReportPlan:
    return ReportPlan(state, reported(state, HERE, inventory, now=NOW))


def with_report(seed: int) -> State:
    """A pool whose first host has reported before."""
    return after(START, reported(START, HERE, report(HERE, seed), now=NOW))


def committed(state: State, inventory: Inventory, *, at_most: int, meddle: bool) -> State:
    """The pool after the report, in parts; somebody changes an object before each of them."""
    plan, number = compared(state, inventory), 0
    while not plan.is_done:
        if meddle:
            number += 1
            state = noted(state, number)
        part = plan.next(state, at_most)
        state = after(state, part.changes)
        assert dangling(state) == []
        plan.taken(part)
        if not part.changes:
            meddle = meddle and number < 5
            plan = compared(state, inventory)
    return state


def noted(state: State, number: int) -> State:
    """An administrator has written something on one of the objects."""
    described = sorted((o for o in state.objects() if isinstance(o, Described)), key=_by_uuid)
    chosen = described[number % len(described)]
    return after(state, (Put(replace(chosen, name_description=f"note {number}")),))


def _by_uuid(obj: Described) -> str:
    return obj.uuid


@MANY
@given(before=seeds, now=seeds, at_most=st.integers(1, 20))
def test_the_parts_of_a_plan_amount_to_the_report(before: int, now: int, at_most: int) -> None:
    state, inventory = with_report(before), report(HERE, now)
    whole = after(state, reported(state, HERE, inventory, now=NOW))
    assert committed(state, inventory, at_most=at_most, meddle=False).tables == whole.tables


@MANY
@given(before=seeds, now=seeds, at_most=st.integers(1, 20))
def test_what_administrators_write_meanwhile_neither_gets_lost_nor_is_in_the_way(
    before: int, now: int, at_most: int
) -> None:
    inventory = report(HERE, now)
    state = committed(with_report(before), inventory, at_most=at_most, meddle=True)
    assert reported(state, HERE, inventory, now=NOW) == ()


def new_vm(number: int, host: HostId) -> VM:
    uuid = VmId(f"60000000-0000-4000-8000-{number:012}")
    halted = PowerState.HALTED
    return VM(uuid=uuid, name_label=f"vm{number}", power_state=halted, resident_on=host)


def plan_of_new_vms() -> ReportPlan:
    inventory = report(HERE, 1)
    objects = (*inventory.objects, *(new_vm(number, HERE) for number in range(10)))
    return compared(with_report(1), replace(inventory, objects=objects))


def test_a_plan_ends_when_somebody_adds_or_removes_what_reports_speak_of() -> None:
    plan = plan_of_new_vms()
    state = with_report(1)
    vm = new_vm(99, THERE)
    assert plan.next(state, 3).changes
    assert not plan.next(after(state, (Put(vm),)), 3).changes
    some = min(sr.uuid for sr in state.all(SR))
    assert not plan.next(after(state, (Remove(SR.KIND, some),)), 3).changes


def test_a_plan_ends_when_a_host_comes_or_goes() -> None:
    plan = plan_of_new_vms()
    state = with_report(1)
    metrics = next(m for m in state.all(HostMetrics) if m.host == THERE)
    assert not plan.next(after(state, (Put(replace(metrics, live=not metrics.live)),)), 3).changes


def test_a_part_that_was_not_committed_is_given_again() -> None:
    plan = plan_of_new_vms()
    state = with_report(1)
    assert plan.next(state, 3) == plan.next(state, 3)
    assert len(plan.next(state, 5).changes) == 5
