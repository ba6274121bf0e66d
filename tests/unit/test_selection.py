"""Names: which object a person means, and what is said when that is not clear."""

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import VM, Incarnation, PowerState, VmId
from poolcore.replica import CommitId, State, snapshot
from poolmaster.decide.selection import select


def pool(*vms: tuple[str, str]) -> State:
    objects = [
        VM(uuid=VmId(uuid), name_label=name, power_state=PowerState.HALTED) for uuid, name in vms
    ]
    return snapshot(Incarnation(1, "i"), CommitId(1, 1), objects, ())


def refusal(state: State, name: str) -> PoolError:
    with pytest.raises(PoolError) as refused:
        select(state, VM, name)
    return refused.value


def test_a_uuid_wins_over_a_name_and_a_name_over_a_prefix() -> None:
    state = pool(("aaa", "bbb"), ("bbb", "web"), ("ccc", "web1"), ("ddd", "aa"))
    assert select(state, VM, "bbb").uuid == "bbb"
    assert select(state, VM, "web").uuid == "bbb"
    assert select(state, VM, "web1").uuid == "ccc"
    assert select(state, VM, "aa").uuid == "ddd"


def test_a_unique_prefix_of_either_will_do() -> None:
    state = pool(("abc", "mail"), ("def", "web"))
    assert select(state, VM, "ab").uuid == "abc"
    assert select(state, VM, "we").uuid == "def"


def test_several_candidates_are_named_up_to_five() -> None:
    error = refusal(pool(*((f"u{n}", f"web{n}") for n in range(7))), "web")
    assert error.reason is Reason.OBJECT_AMBIGUOUS
    assert error.params["candidates"].startswith("web0 (u0), web1 (u1)")
    assert error.params["candidates"].endswith("and 2 more")


def test_two_of_the_same_name_are_ambiguous_though_a_third_begins_with_it() -> None:
    assert refusal(pool(("a", "x"), ("b", "x"), ("c", "xy")), "x").params["candidates"] == (
        "x (a), x (b)"
    )


def test_nothing_that_fits_is_not_found_and_nothing_asked_is_invalid() -> None:
    assert refusal(pool(("a", "x")), "nosuch").reason is Reason.OBJECT_NOT_FOUND
    assert refusal(pool(("a", "x")), "").reason is Reason.INVALID_VALUE
