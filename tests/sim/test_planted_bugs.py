"""Each safety mechanism of the ledger taken away, one at a time: the rules notice.

The bugs are subclasses and a wrapper, here and nowhere else: nothing in the product can be
configured to have one. The same runs with the product's own ledger break no rule, so it is the bug
that is found. `docs/adr/0001-safety-mechanisms.md` says what each mechanism is there for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.replica import Head
from poolmaster.batch import Batch
from poolmaster.layout import HEAD, LOG
from poolmaster.ledger import Decide, Ledger, Outcome, Request, SteppedDown
from poolmaster.store.contract import Compare, Store, Write
from sim.contention import Contention
from support.stores import StoreAround

SEEDS = range(8)


class NoCompareOfHead(StoreAround):
    """Commits whoever is master."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        if any(write.key.startswith(LOG) for write in writes):
            compares = [compare for compare in compares if compare.key != HEAD]
        return await super().transact(compares, writes)


class AnswersBeforeCommit(Ledger):
    """Tells its callers what it is going to do."""

    async def _commit(self, batch: Batch) -> None:
        batch.tell()
        await super()._commit(batch)


class PublishesBeforeCommit(Ledger):
    """Pushes to the members what it is going to commit."""

    async def _commit(self, batch: Batch) -> None:
        self.feed.publish(batch.commits)
        await super()._commit(batch)


class ForgetsRequestIds(Ledger):
    """Does a write as often as it is asked for."""

    async def write(self, decide: Decide, *, request: Request | None = None) -> Outcome:
        return await super().write(decide)


class AnswersDuplicatesBeforeCommit(Ledger):
    """Tells who asks a second time what it is going to tell the first, from memory."""

    async def _commit(self, batch: Batch) -> None:
        for answer, outcome in batch._answers:
            if isinstance(outcome, Outcome) and outcome.repeated and not answer.done():
                answer.set_result(outcome)
        await super()._commit(batch)

    async def _first_outcome(self, request: Request, revision: int) -> Outcome:
        return Outcome(revision, None, repeated=True)


class UnknownIsNotDone(Ledger):
    """Takes a deadline for a refusal."""

    async def _settle(self, batch: Batch, compares: list[Compare], writes: list[Write]) -> None:
        raise PoolError(Reason.STORE_UNAVAILABLE, problem="no answer")


class UnknownIsDone(Ledger):
    """Takes a deadline for a success."""

    async def _settle(self, batch: Batch, compares: list[Compare], writes: list[Write]) -> None:
        return


class FailedCommitIsNotDone(Ledger):
    """Takes an error at COMMIT for a refusal."""

    async def _commit(self, batch: Batch) -> None:
        try:
            await super()._commit(batch)
        except SteppedDown:
            batch.tell(self._not_master())
            raise


class ReadsWithoutBarrier(Ledger):
    """Answers reads from what it has."""

    async def confirm(self) -> Head:
        return self.head


PLANTED: dict[str, Callable[[int], Contention]] = {
    NoCompareOfHead.__name__: lambda seed: Contention(seed, around=NoCompareOfHead),
    **{
        kind.__name__: lambda seed, kind=kind: Contention(seed, kind=kind)  # type: ignore[misc]
        for kind in (
            AnswersBeforeCommit,
            PublishesBeforeCommit,
            ForgetsRequestIds,
            AnswersDuplicatesBeforeCommit,
            UnknownIsNotDone,
            UnknownIsDone,
            FailedCommitIsNotDone,
            ReadsWithoutBarrier,
        )
    },
}


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_bug_no_rule_is_broken(seed: int) -> None:
    Contention(seed).run()


def test_a_store_that_only_passes_on_changes_nothing() -> None:
    def around(store: Store) -> Store:
        return StoreAround(store)

    Contention(SEEDS[0], around=around).run()


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_breaks_a_rule(name: str) -> None:
    for seed in SEEDS:
        try:
            PLANTED[name](seed).run()
        except AssertionError:
            return
    pytest.fail(f"nobody noticed {name} in {len(SEEDS)} runs")
