"""The compare in a claim taken away: the chaos of hosts that share a store notices.

As in `test_planted_bugs.py` the bugs are here and nowhere else; the same seeds break no rule with
the product's own claims (`test_random.py` plays more of them).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from poolmaster.layout import ALIVE, HEAD, LOG
from poolmaster.store.contract import Compare, Write
from sim import shared_chaos
from support.stores import StoreAround

SEEDS = range(8)


def is_claim(writes: Sequence[Write]) -> bool:
    """Whether a transaction moves `head` to another term: it commits nothing."""
    keys = [write.key for write in writes]
    return HEAD in keys and not any(key.startswith(LOG) for key in keys)


def without_head(compares: Sequence[Compare]) -> list[Compare]:
    return [compare for compare in compares if compare.key != HEAD]


class SwapsWithoutCompare(StoreAround):
    """Whoever claims is master, whatever became of `head` since it was read."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        if is_claim(writes):
            compares = without_head(compares)
        return await super().transact(compares, writes)


class TakesTheLeaseForTheFence(StoreAround):
    """Whoever finds that the master's `alive` key has expired may overwrite `head`."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        if is_claim(writes) and not (await self.inner.read(ALIVE)).items:
            compares = without_head(compares)
        return await super().transact(compares, writes)


@pytest.mark.parametrize("bug", [SwapsWithoutCompare, TakesTheLeaseForTheFence])
def test_a_planted_bug_breaks_a_rule(bug: type[StoreAround]) -> None:
    for seed in SEEDS:
        try:
            shared_chaos.run(seed, around=bug)
        except AssertionError:
            return
    pytest.fail(f"nobody noticed {bug.__name__} in {len(SEEDS)} runs")
