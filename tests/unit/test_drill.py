"""When a failover drill is safe, and what the answers to its writes come to."""

from dataclasses import replace

import pytest

from poolclient._drill import Answer, report
from poolcore.difference import Touch
from poolcore.model import Host, HostId, Task, TaskId, TaskStatus
from poolcore.outlook import HostRef
from poolcore.replica import Put, State, changed
from poolmaster.decide.drill import next_master, obstacles
from poolmaster.decide.if_lost import LiveFacts
from support.small_pool import IGNITE, PHANTOM, THEN, host, small_pool

SPECTER = HostId("20000000-0000-4000-8000-000000000003")
OLD = HostRef(uuid=PHANTOM, name_label="phantom")
NEW = HostRef(uuid=IGNITE, name_label="ignite")
WHOLE = LiveFacts(master=PHANTOM, applied={PHANTOM: 10, IGNITE: 10, SPECTER: 10}, shared_store=True)
TASK = Task(
    uuid=TaskId("80000000-0000-4000-8000-000000000001"),
    name_label="Add host wraith",
    operation="host.join",
    step="started",
    created=THEN,
)


def three() -> State:
    """A pool of three whose tasks have all ended."""
    state = small_pool()
    ended = [replace(t, status=TaskStatus.SUCCESS, finished=THEN) for t in state.all(Task)]
    objects = [host(SPECTER, "specter", 3), *ended]
    return replace(state, tables=changed(state.tables, map(Put, objects)))


def in_the_way(state: State, facts: LiveFacts, *lagging: HostId) -> tuple[str, ...]:
    return obstacles(state, facts, lagging=frozenset(lagging))


def test_nothing_is_in_the_way_of_a_drill_in_a_pool_that_is_whole() -> None:
    assert in_the_way(three(), WHOLE) == ()
    assert next_master(three(), WHOLE) == NEW


def test_every_obstacle_is_told_at_once() -> None:
    state = replace(
        three(),
        tables=changed(
            three().tables,
            [Put(replace(h, failover_priority=0)) for h in three().all(Host)] + [Put(TASK)],
        ),
    )
    facts = replace(WHOLE, applied={PHANTOM: 10, IGNITE: 9})
    assert in_the_way(state, facts, IGNITE) == (
        "ignite is behind",
        "specter is not connected",
        "no other host could be the master",
        "a task is under way (Add host wraith)",
    )
    alone = in_the_way(three(), replace(WHOLE, shared_store=False))
    assert alone == ("the pool's store is at its present master alone",)


def test_the_task_of_the_drill_itself_is_not_in_its_way() -> None:
    state = replace(three(), tables=changed(three().tables, [Put(TASK)]))
    assert obstacles(state, WHOLE, lagging=frozenset(), but=TASK.uuid) == ()


ANSWERS = [Answer("a", 11, 1.0), Answer("b", 12, 1.25), Answer("c", 14, 2.0), Answer("d", 15, 2.1)]
TOUCHES = [
    Touch(revision=11, term=2, request_id="a"),
    Touch(revision=12, term=2, request_id="b"),
    Touch(revision=13, term=3, request_id="somebody else's"),
    Touch(revision=14, term=3, request_id="c"),
    Touch(revision=15, term=3, request_id="d"),
]


def test_the_outage_is_from_the_last_answer_before_to_the_first_after() -> None:
    found = report(ANSWERS, TOUCHES, old_master=OLD, new_master=NEW, old_term=2)
    assert (found.outage_seconds, found.acknowledged) == (0.75, 4)
    assert (found.lost, found.repeated, found.new_term) == (0, 0, 3)


@pytest.mark.parametrize("missing", [0, 1, 3, 4])
def test_a_write_that_the_pool_does_not_have_is_lost(missing: int) -> None:
    touches = TOUCHES[:missing] + TOUCHES[missing + 1 :]
    found = report(ANSWERS, touches, old_master=OLD, new_master=NEW, old_term=2)
    assert (found.lost, found.repeated) == (1, 0)


def test_a_write_that_the_pool_has_made_twice_is_told() -> None:
    touches = [*TOUCHES, Touch(revision=16, term=3, request_id="b")]
    found = report(ANSWERS, touches, old_master=OLD, new_master=NEW, old_term=2)
    assert (found.lost, found.repeated) == (0, 1)
