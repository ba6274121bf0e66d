"""Which finished tasks a pool keeps: the newest hundred, and whatever has not ended."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from poolcore.model import Kind, Task, TaskId, TaskStatus
from poolcore.replica import Put, Remove, State, changed
from poolmaster.operations.steps import FINISHED_TASKS_KEPT, surplus
from support.small_pool import THEN, small_pool

numbers = st.integers(0, 3 * FINISHED_TASKS_KEPT)
tasks = st.lists(
    st.tuples(numbers, st.sampled_from(TaskStatus)), max_size=2 * FINISHED_TASKS_KEPT + 20
)


def with_tasks(drawn: list[tuple[int, TaskStatus]]) -> State:
    state = small_pool()
    puts = [
        Put(
            Task(
                uuid=TaskId(f"task{position:04}"),
                name_label="Eject host",
                operation="host.eject",
                step="started",
                status=status,
                created=THEN + timedelta(seconds=number),
                finished=THEN + timedelta(seconds=number + 9) if status.is_final else None,
            )
        )
        for position, (number, status) in enumerate(drawn)
    ]
    return State(state.incarnation, state.last, changed(state.tables, puts))


@given(tasks)
def test_only_the_oldest_finished_ones_beyond_a_hundred_go(
    drawn: list[tuple[int, TaskStatus]],
) -> None:
    state = with_tasks(drawn)
    gone = {change.uuid for change in surplus(state) if isinstance(change, Remove)}
    assert all(isinstance(c, Remove) and c.kind is Kind.TASK for c in surplus(state))
    finished = [t for t in state.all(Task) if t.status.is_final]
    assert len(gone) == max(len(finished) - FINISHED_TASKS_KEPT, 0)
    assert gone <= {t.uuid for t in finished}
    kept = [t.finished for t in finished if t.uuid not in gone if t.finished]
    for task in finished:
        if task.uuid in gone and task.finished and kept:
            assert task.finished <= min(kept)
