"""Up to which revision an earlier incarnation's chain is the pool's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poolcore.model import Ancestor, Incarnation
from poolmaster.succession import shared_revision
from support.hosts.facts import empty_pool

FIRST, LEFT, NOW = Incarnation(1, "first"), Incarnation(2, "left", 30), Incarnation(4, "now", 20)
"""The second took everything of the first, as far as one voter's disk had it; the newest one is
sure of less."""


@pytest.mark.parametrize(
    ("other", "expected"),
    [(NOW, None), (LEFT, 20), (FIRST, 20), (Incarnation(3, "of another past"), 0)],
)
def test_what_was_not_certain_is_shared_with_none_of_the_lives_before(
    other: Incarnation, expected: int | None
) -> None:
    lineage = tuple(Ancestor(life.counter, life.uuid, life.forked_at) for life in (FIRST, LEFT))
    pool = replace(empty_pool().pool, lineage=lineage)
    assert shared_revision(pool, NOW, other) == expected
    assert shared_revision(pool, replace(NOW, forked_at=40), FIRST) == 30
