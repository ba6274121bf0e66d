"""Which commits two incarnations of a pool share."""

from __future__ import annotations

from poolcore.replica import Incarnation


def shared_revision(ours: Incarnation, theirs: Incarnation, last: int) -> int:
    """The last revision, up to `last`, of a host of incarnation `theirs` that `ours` has, too.

    Everything, in the same incarnation. In the one that was founded from it: what came before the
    fork. Of any other one nothing is known to be shared, and the answer is 0.
    """
    if theirs.uuid == ours.uuid:
        return last
    if theirs.counter + 1 == ours.counter:
        return min(last, ours.forked_at)
    return 0
