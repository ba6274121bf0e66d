"""Whatever is done to an engine, it holds what a plain dict would; and the model is no pushover."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from contract.engines import Engine, MemoryEngine, SqliteEngine
from contract.store_model import StoreMachine
from poolmaster.store.contract import Compare, ReadResult, WatchEvent, Write
from poolmaster.store.memory import MemoryStore


class MemoryMachine(StoreMachine):
    def make_engine(self) -> Engine:
        return MemoryEngine(kept_versions=10_000)


class SqliteMachine(StoreMachine):
    def make_engine(self) -> Engine:
        return SqliteEngine(self.folder, kept_versions=10_000)


def test_memory_holds_what_a_dict_would() -> None:
    run_state_machine_as_test(
        MemoryMachine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )


def test_sqlite_holds_what_a_dict_would() -> None:
    run_state_machine_as_test(
        SqliteMachine, settings=settings(max_examples=10, stateful_step_count=30, deadline=None)
    )


# -- the model finds what is wrong ----------------------------------------------------------------


class NoCompare(MemoryStore):
    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        return await super().transact([], writes)


class HalfDone(MemoryStore):
    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        return await super().transact(compares, writes[:2])


class Repeated(MemoryStore):
    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        await super().transact(compares, writes)
        return await super().transact(compares, writes)


class AnsweredTooEarly(MemoryStore):
    """Says yes, and writes at the next call."""

    _owed: tuple[Sequence[Compare], Sequence[Write]] | None = None

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        owed, self._owed = self._owed, (compares, writes)
        if owed is not None:
            await super().transact(*owed)
        return await super().transact(compares, [])


class StaleRead(MemoryStore):
    _seen: ReadResult | None = None

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        if (start, end) != (b"\x00", b"\xff\xff"):
            return await super().read(start, end, limit=limit)
        answer, self._seen = self._seen, await super().read(start, end, limit=limit)
        return answer or self._seen


class EndlessPages(MemoryStore):
    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        result = await super().read(start, end, limit=limit)
        return replace(result, more=len(result.items) == limit)


class ForgetfulWatch(MemoryStore):
    async def watch(
        self, start: bytes, end: bytes, *, after_version: int
    ) -> AsyncIterator[WatchEvent]:
        async for event in super().watch(start, end, after_version=after_version):
            if event.value is not None:
                yield event


class StutteringWatch(MemoryStore):
    async def watch(
        self, start: bytes, end: bytes, *, after_version: int
    ) -> AsyncIterator[WatchEvent]:
        async for event in super().watch(start, end, after_version=after_version):
            yield event
            yield event


class LeaseWithoutEnd(MemoryStore):
    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        return await super().transact(compares, [replace(write, lease=None) for write in writes])


@pytest.mark.parametrize(
    "broken",
    [
        NoCompare,
        HalfDone,
        Repeated,
        AnsweredTooEarly,
        StaleRead,
        EndlessPages,
        ForgetfulWatch,
        StutteringWatch,
        LeaseWithoutEnd,
    ],
)
def test_a_broken_engine_is_found_out(broken: type[MemoryStore]) -> None:
    class BrokenMachine(StoreMachine):
        def make_engine(self) -> Engine:
            return MemoryEngine(kept_versions=10_000, handle=broken)

    quick = settings(
        max_examples=200,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(BrokenMachine, settings=quick)
