"""Whether a failover drill is safe: the mastership is to end, and the pool must not notice much.

Pure, over the pool's metadata and the facts of the moment. A drill is for a pool that is whole:
whatever is wrong already would make it a real failure.
"""

from __future__ import annotations

from collections.abc import Set

from poolcore.model import Host, HostId, Task, TaskId
from poolcore.outlook import HostRef
from poolcore.replica import State
from poolmaster.decide.if_lost import LiveFacts, if_lost


def obstacles(
    state: State, facts: LiveFacts, *, lagging: Set[HostId], but: TaskId | None = None
) -> tuple[str, ...]:
    """Everything that makes a drill unsafe, in words; empty when it is safe.

    `lagging`: the attached hosts that have not had everything for a while. `but`: a task that is
    none of the obstacles, the drill's own.
    """
    found = []
    if not facts.shared_store:
        found.append("the pool's store is at its present master alone")
    for host in sorted(state.all(Host), key=lambda h: (h.name_label, h.uuid)):
        if host.uuid not in facts.applied:
            found.append(f"{host.name_label} is not connected")
        elif host.uuid in lagging:
            found.append(f"{host.name_label} is behind")
    if facts.shared_store and next_master(state, facts) is None:
        found.append("no other host could be the master")
    tasks = (t for t in state.all(Task) if not t.status.is_final and t.uuid != but)
    running = sorted(task.name_label for task in tasks)
    found += [f"a task is under way ({name})" for name in running]
    if state.pool.reservation is not None:
        found.append(f"this host is just joining pool {state.pool.reservation.pool_name}")
    return tuple(found)


def next_master(state: State, facts: LiveFacts) -> HostRef | None:
    """Who would be master by itself if the present one were lost; none if nobody."""
    if facts.master is None:
        return None
    outlook = if_lost(state, frozenset({facts.master}), facts)
    return outlook.next_master if outlook.writes else None
