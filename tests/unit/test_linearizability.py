"""The checker of histories: what it accepts, what it finds, and how it says so."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, combinations, permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import linearizability
from support.history import History, Kind, Operation, Outcome, Value, load, save
from support.linearizability import Undecided, after, check

# -- histories by hand: each line is a process, and a column a moment --------------------------


def read(process: str, value: Value, begin: float, end: float, *, stale: bool = False) -> Operation:
    return Operation(process, "x", Kind.READ, value, begin, end, Outcome.OK, stale=stale)


def wrote(process: str, value: Value, begin: float, end: float = math.inf) -> Operation:
    outcome = Outcome.UNKNOWN if math.isinf(end) else Outcome.OK
    return Operation(process, "x", Kind.WRITE, value, begin, end, outcome)


def swapped(
    process: str, expected: Value, value: Value, begin: float, end: float, *, matched: bool = True
) -> Operation:
    return Operation(
        process, "x", Kind.SWAP, value, begin, end, Outcome.OK, expected=expected, matched=matched
    )


GOOD = {
    "nothing": [],
    "one_after_the_other": [wrote("a", "1", 0, 1), read("b", "1", 2, 3), wrote("b", "2", 4, 5)],
    "overlapping_reads_may_see_either": [
        wrote("a", "1", 0, 9),
        read("b", None, 1, 2),
        read("c", "1", 3, 4),
    ],
    "writes_at_once_in_the_order_that_reads_tell": [
        wrote("a", "1", 0, 5),
        wrote("b", "2", 0, 5),
        read("c", "2", 6, 7),
        read("d", "2", 8, 9),
    ],
    "an_unknown_write_may_land_late": [
        wrote("a", "1", 0),
        read("b", None, 1, 2),
        wrote("b", "2", 3, 4),
        read("b", "2", 5, 6),
        read("b", "1", 7, 8),
    ],
    "an_unknown_write_may_never_land": [wrote("a", "1", 0), read("b", None, 1, 2)],
    "a_failed_write_is_not_there": [
        replace(wrote("a", "1", 0, 1), outcome=Outcome.FAILED),
        read("b", None, 2, 3),
    ],
    "one_of_two_swaps_matches": [
        swapped("a", None, "a", 0, 5),
        swapped("b", None, "b", 0, 5, matched=False),
        read("c", "a", 6, 7),
        swapped("a", "a", None, 8, 9),
        swapped("b", None, "b", 10, 11),
    ],
    "a_swap_that_does_not_match_sees_an_unknown_write": [
        wrote("a", "1", 0),
        swapped("b", None, "b", 1, 2, matched=False),
    ],
    "a_response_and_an_invocation_at_the_same_moment_overlap": [
        wrote("a", "1", 0, 1),
        read("b", None, 1, 2),
    ],
    "what_is_marked_stale_is_no_claim": [
        wrote("a", "1", 0, 1),
        read("b", None, 2, 3, stale=True),
    ],
}

BAD = {
    "a_stale_read": [wrote("a", "1", 0, 1), wrote("a", "2", 2, 3), read("b", "1", 4, 5)],
    "a_lost_write": [wrote("a", "1", 0, 1), read("b", None, 2, 3)],
    "a_value_from_nowhere": [wrote("a", "1", 0, 1), read("b", "2", 2, 3)],
    "a_read_before_its_write": [read("b", "1", 0, 1), wrote("a", "1", 2, 3)],
    "a_write_made_twice": [
        wrote("a", "1", 0, 1),
        wrote("b", "2", 2, 3),
        read("c", "2", 4, 5),
        read("c", "1", 6, 7),
    ],
    "an_unknown_write_made_twice": [
        wrote("a", "1", 0),
        read("b", "1", 1, 2),
        wrote("b", "2", 3, 4),
        read("b", "2", 5, 6),
        read("b", "1", 7, 8),
    ],
    "two_readers_of_different_orders": [
        wrote("a", "1", 0, 3),
        wrote("b", "2", 0, 3),
        read("c", "1", 4, 5),
        read("d", "2", 6, 7),
    ],
    "a_new_value_and_then_the_old_one": [
        wrote("a", "1", 0, 9),
        read("b", "1", 1, 2),
        read("c", None, 3, 4),
    ],
    "two_swaps_of_the_same": [swapped("a", None, "a", 0, 5), swapped("b", None, "b", 0, 5)],
    "a_refused_write_that_was_made": [
        replace(wrote("a", "1", 0, 1), outcome=Outcome.FAILED),
        read("b", "1", 2, 3),
    ],
    "a_swap_that_ought_to_have_matched": [swapped("a", None, "a", 0, 1, matched=False)],
}


@pytest.mark.parametrize("name", GOOD)
def test_an_order_is_found_for(name: str) -> None:
    assert check(GOOD[name]) == []
    assert by_brute_force(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_no_order_is_found_for(name: str) -> None:
    assert len(check(BAD[name])) == 1
    assert not by_brute_force(BAD[name])


def test_registers_are_looked_at_one_by_one() -> None:
    bad = [replace(operation, key="y") for operation in BAD["a_lost_write"]]
    (violation,) = check([*GOOD["one_after_the_other"], *bad])
    assert violation.key == "y"


def test_a_violation_says_where_it_was_and_what_would_have_been_possible() -> None:
    history = [
        wrote("a", "1", 0, 1),
        wrote("a", "2", 2, 3),
        wrote("c", "3", 3.5, 9),
        read("b", "1", 4, 5),
        read("b", "2", 6, 7),
    ]
    (violation,) = check(history)
    assert violation.stuck == history[3]
    assert violation.overlapping == (history[2],)
    assert violation.order == (history[0], history[1])
    assert violation.possible == {"2"}
    assert str(violation) == (
        "x is not linearizable: no order explains that\n"
        "      4.0000 –     5.0000 s  b: read '1'\n"
        "Overlapping with it, or of an outcome that is not known:\n"
        "      3.5000 –     9.0000 s  c: wrote '3'\n"
        "An order of what came before it:\n"
        "      0.0000 –     1.0000 s  a: wrote '1'\n"
        "      2.0000 –     3.0000 s  a: wrote '2'\n"
        "By then it can have been: '2'"
    )


def test_a_search_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearizability, "CONFIGURATIONS", 100)
    writes = [wrote(f"w{n}", str(n), 0, 10) for n in range(12)]
    reads = [read(f"r{n}", str(n), 0, 10) for n in range(12)]
    with pytest.raises(Undecided, match="x: more than 100"):
        check([*writes, *reads, read("b", "never", 11, 12)])


def test_a_history_that_was_kept_is_the_same_again(tmp_path: Path) -> None:
    for name, operations in {**GOOD, **BAD}.items():
        save(operations, tmp_path / name)
        assert list(load(tmp_path / name)) == operations


def test_a_recorded_call_without_an_end_is_of_unknown_outcome() -> None:
    moments = iter([100.0, 101.0, 102.0, 103.0, 104.0, 105.0])
    history = History(lambda: next(moments))
    history.begin("a", "x", Kind.WRITE, "1")
    history.begin("b", "x", Kind.READ).ok(value="1", revision=7)
    history.begin("c", "x", Kind.WRITE, "2").failed()
    first, second, third = history.operations
    assert (first.outcome, first.returned) == (Outcome.UNKNOWN, math.inf)
    assert (second.value, second.invoked, second.returned, second.revision) == ("1", 2.0, 3.0, 7)
    assert (third.outcome, third.value) == (Outcome.FAILED, "2")


# -- against brute force, on small histories ------------------------------------------------------


def by_brute_force(operations: Sequence[Operation]) -> bool:
    """Whether any order of the operations, with any of the unknown ones, explains them."""
    told = [o for o in operations if o.outcome is not Outcome.FAILED and not o.stale]
    sure = [o for o in told if o.outcome is Outcome.OK]
    unsure = [o for o in told if o.outcome is Outcome.UNKNOWN and o.kind is not Kind.READ]
    return any(
        _explains(order)
        for some in _subsets(unsure)
        for order in permutations([*sure, *some])
        if all(o.returned >= p.invoked for n, p in enumerate(order) for o in order[n + 1 :])
    )


def _subsets(operations: Sequence[Operation]) -> Iterable[tuple[Operation, ...]]:
    return chain.from_iterable(combinations(operations, n) for n in range(len(operations) + 1))


def _explains(order: Iterable[Operation]) -> bool:
    value: Value = None
    for operation in order:
        possible, value = after(operation, value)
        if not possible:
            return False
    return True


@st.composite
def anything(draw: st.DrawFn) -> list[Operation]:
    """A small history of whatever kind: few values, many overlaps, mostly not linearizable."""
    values = st.sampled_from([None, "1", "2"])
    operations = []
    for number in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, 8))
        operations.append(
            Operation(
                f"p{number}",
                "x",
                kind := draw(st.sampled_from(Kind)),
                draw(values),
                begin,
                begin + draw(st.integers(0, 6)),
                draw(st.sampled_from([Outcome.OK, Outcome.OK, Outcome.UNKNOWN, Outcome.FAILED])),
                expected=draw(values) if kind is Kind.SWAP else None,
                matched=draw(st.booleans()) if kind is Kind.SWAP else True,
            )
        )
    return [
        replace(o, returned=math.inf, matched=True) if o.outcome is Outcome.UNKNOWN else o
        for o in operations
    ]


@given(anything())
@settings(max_examples=500)
def test_it_says_of_any_small_history_what_brute_force_says(history: list[Operation]) -> None:
    assert (check(history) == []) is by_brute_force(history)


def happened(seed: int, *, operations: int, processes: int, keys: int = 1) -> list[Operation]:
    """A history that is linearizable because it has happened: each at some moment of its span.

    One in ten writes is of unknown outcome; half of those are made, at any later time.
    """
    chance = random.Random(seed)
    moments: list[tuple[float, Operation]] = []
    free = [0.0] * processes
    for number in range(operations):
        process = min(range(processes), key=free.__getitem__)
        begin = free[process] + chance.expovariate(2.0)
        end = begin + chance.expovariate(1.0)
        free[process] = end
        operation = Operation(
            f"p{process}",
            f"k{chance.randrange(keys)}",
            chance.choice([Kind.READ, Kind.WRITE, Kind.SWAP]),
            str(number),
            begin,
            end,
            Outcome.OK,
        )
        moment = chance.uniform(begin, end)
        if operation.kind is Kind.WRITE and chance.random() < 0.1:
            operation = replace(operation, returned=math.inf, outcome=Outcome.UNKNOWN)
            moment = begin + chance.expovariate(0.2) if chance.random() < 0.5 else math.inf
        moments.append((moment, operation))
    registers: dict[str, Value] = {}
    found = []
    for moment, told in sorted(moments, key=lambda m: m[0]):
        operation, value = told, registers.get(told.key)
        if math.isinf(moment):
            found.append(operation)
            continue
        if operation.kind is Kind.READ:
            operation = replace(operation, value=value)
        elif operation.kind is Kind.SWAP:
            expected = value if chance.random() < 0.7 else "something else"
            operation = replace(operation, expected=expected, matched=expected == value)
        registers[operation.key] = after(operation, value)[1]
        found.append(operation)
    return sorted(found, key=lambda operation: operation.invoked)


@given(seed=st.integers(0, 2**32), processes=st.integers(1, 8))
@settings(max_examples=200)
def test_what_has_happened_is_accepted(seed: int, processes: int) -> None:
    history = happened(seed, operations=60, processes=processes, keys=2)
    assert check(history) == []


Mutation = Callable[[list[Operation], random.Random], list[Operation]]


def stale_read(history: list[Operation], chance: random.Random) -> list[Operation]:
    """A read finds what it should not: what was there at some other time."""
    at = chance.choice([n for n, o in enumerate(history) if o.kind is Kind.READ])
    values = [o.value for o in history if o.is_write]
    changed = replace(history[at], value=chance.choice([None, *values]))
    return [*history[:at], changed, *history[at + 1 :]]


def lost_write(history: list[Operation], chance: random.Random) -> list[Operation]:
    """A write is told as refused, though it may have been made."""
    at = chance.choice([n for n, o in enumerate(history) if o.kind is Kind.WRITE])
    changed = replace(history[at], outcome=Outcome.FAILED)
    return [*history[:at], changed, *history[at + 1 :]]


def write_made_twice(history: list[Operation], chance: random.Random) -> list[Operation]:
    """What one write has written is read once more, after another one."""
    values = [o.value for o in history if o.is_write]
    end = max((o.returned for o in history if not math.isinf(o.returned)), default=0.0)
    late = read("late", chance.choice(values), end + 1.0, end + 2.0)
    return [*history, replace(late, key=history[0].key)]


@pytest.mark.parametrize("mutate", [stale_read, lost_write, write_made_twice])
def test_a_mutated_history_is_rejected_when_brute_force_rejects_it(mutate: Mutation) -> None:
    rejected = 0
    for seed in range(300):
        history = happened(seed, operations=6, processes=3)
        if {Kind.READ, Kind.WRITE} <= {operation.kind for operation in history}:
            mutated = mutate(history, random.Random(seed))
            linearizable = check(mutated) == []
            assert linearizable is by_brute_force(mutated)
            rejected += not linearizable
    assert rejected > 30, "most mutations are no harm, but not all"


# -- as long as a chaos test's --------------------------------------------------------------------


def test_ten_thousand_operations_are_checked_in_seconds() -> None:
    history = happened(1, operations=10_000, processes=16, keys=50)
    began = time.process_time()
    assert check(history) == []
    assert time.process_time() - began < 10.0


def test_one_stale_read_among_ten_thousand_operations_is_found() -> None:
    history = happened(2, operations=10_000, processes=16, keys=50)
    assert check(history) == []
    reads = [n for n, o in enumerate(history) if o.kind is Kind.READ and n > 5_000]
    values = [o.value for o in history if o.is_write and o.key == history[reads[0]].key]
    history[reads[0]] = replace(history[reads[0]], value=values[0])
    (violation,) = check(history)
    assert violation.stuck == history[reads[0]]
