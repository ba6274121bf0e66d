"""Who votes in the pool's etcd: the usual courses, and that no step costs a quorum."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolcore.model import HostId, Pool, Voters
from poolcore.replica import Put
from poolmaster.decide.voters import (
    QUIET_SECONDS,
    Add,
    Candidate,
    Facts,
    Member,
    Promote,
    Readdress,
    Remove,
    Step,
    Wait,
    is_needed,
    next_step,
    wanted,
)
from support.hosts.facts import after, facts, host_id, pool_of

REPLACE_SECONDS = 60.0
NAMES = ("phantom", "ignite", "specter", "vector")


def host(number: int) -> HostId:
    return HostId(f"host-{number}")


def pool(
    hosts: int,
    *members: Member,
    unable: frozenset[int] = frozenset(),
    quiet: float = QUIET_SECONDS,
) -> Facts:
    return Facts(
        hosts=tuple(
            Candidate(host=host(n), able=n not in unable, preference=-n) for n in range(hosts)
        ),
        members=members,
        quiet_seconds=quiet,
        replace_seconds=REPLACE_SECONDS,
    )


def voter(number: int, *, gone: float = 0.0) -> Member:
    return Member(id=number, host=host(number), gone_seconds=gone)


def lost(number: int, *, gone: float = 9.0) -> Member:
    """A voter whose host has nothing of it any more."""
    return replace(voter(number, gone=gone), lost=True)


def learner(number: int, *, in_sync: bool = True, gone: float = 0.0) -> Member:
    return Member(id=number, host=host(number), learner=True, in_sync=in_sync, gone_seconds=gone)


@pytest.mark.parametrize(
    ("hosts", "voters", "needed"),
    [(1, 0, False), (2, 0, True), (3, 0, False), (2, 2, True), (3, 3, False), (4, 3, False)],
)
def test_one_more_host_is_to_vote_where_there_are_not_enough_without_it(
    hosts: int, voters: int, needed: bool
) -> None:
    state = pool_of(*(facts(name) for name in NAMES[:hosts]))
    if voters:
        root: Pool = replace(
            state.pool, voters=Voters("token", tuple(sorted(map(host_id, NAMES[:voters]))))
        )
        state = after(state, (Put(root),))
    assert is_needed(state) is needed


@pytest.mark.parametrize(("hosts", "voters"), [(3, 3), (6, 3), (7, 5), (64, 5)])
def test_how_many_vote(hosts: int, voters: int) -> None:
    assert wanted(hosts) == voters


@pytest.mark.parametrize(
    ("facts", "step"),
    [
        (pool(3, voter(0), voter(1), voter(2)), Wait()),
        # growing
        (pool(3, voter(0)), Add(host(1))),
        (pool(3, voter(0), quiet=1.0), Wait()),
        (pool(3, voter(0), learner(1, in_sync=False)), Wait()),
        (pool(3, voter(0), learner(1)), Promote(1)),
        (pool(7, voter(0), voter(1), voter(2)), Add(host(3))),
        # a voter is lost
        (pool(4, voter(0), voter(1), voter(2, gone=10.0)), Wait()),
        (pool(3, voter(0), voter(1), voter(2, gone=90.0)), Wait()),
        (pool(4, voter(0), voter(1), voter(2, gone=90.0)), Remove(2)),
        (pool(4, voter(0), voter(1), voter(2, gone=90.0), unable=frozenset({3})), Wait()),
        (pool(4, voter(0), voter(1)), Add(host(2))),
        # and its disk with it: its host begins anew, whether there is another or not
        (pool(3, voter(0), voter(1), lost(2)), Remove(2)),
        (pool(4, voter(0), voter(1), lost(2)), Remove(2)),
        (pool(3, voter(0), voter(1), lost(2, gone=5.0)), Wait()),
        (pool(3, voter(0), voter(1), lost(2, gone=0.0)), Wait()),
        (pool(3, voter(0), voter(1, gone=1.0), lost(2)), Wait()),
        (pool(3, voter(0), voter(1)), Add(host(2))),
        (pool(3, voter(0), voter(1), replace(learner(2, gone=9.0), lost=True)), Remove(2)),
        (pool(3, voter(0), voter(1), replace(learner(2, gone=5.0), lost=True)), Wait()),
        (pool(3, voter(0), voter(1), replace(learner(2), lost=True)), Promote(2)),
        # without a quorum there is nothing that could be done this way
        (pool(4, voter(0), voter(1, gone=90.0), voter(2, gone=90.0)), Wait()),
        # a voter's host has left the pool: its place is filled first, if it can be
        (pool(3, voter(0), voter(1), voter(9)), Add(host(2))),
        (pool(2, voter(0), voter(1), voter(9)), Remove(9)),
        (pool(3, voter(0), voter(1), voter(9), learner(2)), Promote(2)),
        (pool(3, voter(0), voter(1), voter(2), voter(9)), Remove(9)),
        (pool(3, voter(0), voter(1), voter(9, gone=7.0)), Remove(9)),
        (pool(3, voter(0), voter(1), voter(9, gone=5.0)), Wait()),
        (pool(3, voter(0), voter(1), learner(9, gone=5.0)), Wait()),
        # learners that will not become voters
        (pool(3, voter(0), voter(1), learner(9)), Remove(9)),
        (pool(3, voter(0), voter(1), learner(2, gone=90.0)), Remove(2)),
        (pool(3, voter(0), voter(1), learner(2, gone=9.0)), Wait()),
        # two voters of which one is away: a third vote would not help, nor harm
        (pool(3, voter(0), voter(1, gone=9.0), learner(2)), Promote(2)),
        # the pool has become smaller
        (pool(5, *(voter(n) for n in range(5))), Remove(4)),
        (pool(5, voter(0), voter(1, gone=9.0), *(voter(n) for n in (2, 3, 4))), Remove(1)),
    ],
)
def test_the_next_step(facts: Facts, step: Step) -> None:
    assert next_step(facts) == step


members = st.builds(
    Member,
    id=st.integers(0, 9),
    host=st.integers(0, 9).map(host),
    learner=st.booleans(),
    in_sync=st.booleans(),
    gone_seconds=st.sampled_from([0.0, 0.0, 5.0, 9.0, 90.0]),
    lost=st.booleans(),
)
situations = st.builds(
    lambda hosts, members, unable, quiet: pool(hosts, *members, unable=unable, quiet=quiet),
    st.integers(1, 9),
    st.lists(members, max_size=7, unique_by=(lambda m: m.id, lambda m: m.host)),
    st.frozensets(st.integers(0, 9)),
    st.sampled_from([0.0, QUIET_SECONDS]),
)


def done(facts: Facts, step: Step) -> Facts:
    """What there is after a step."""
    match step:
        case Add(host):
            new = Member(id=100, host=host, learner=True, in_sync=False)
            return replace(facts, members=(*facts.members, new), quiet_seconds=0.0)
        case Promote(id_):
            changed = (replace(m, learner=m.learner and m.id != id_) for m in facts.members)
            return replace(facts, members=tuple(changed), quiet_seconds=0.0)
        case Remove(id_):
            left = tuple(m for m in facts.members if m.id != id_)
            return replace(facts, members=left, quiet_seconds=0.0)
    return facts


def has_quorum(facts: Facts) -> bool:
    voters = [m for m in facts.members if not m.learner]
    return 2 * sum(m.answers for m in voters) > len(voters)


@given(situations)
def test_no_step_costs_a_quorum(facts: Facts) -> None:
    if has_quorum(facts):
        assert has_quorum(done(facts, next_step(facts)))


@given(situations)
def test_only_able_hosts_that_are_no_members_are_added(facts: Facts) -> None:
    step = next_step(facts)
    if isinstance(step, Add):
        assert any(c.able and c.host == step.host for c in facts.hosts)
        assert step.host not in {m.host for m in facts.members}


@given(st.integers(3, 9), st.integers(1, 3))
def test_a_pool_whose_hosts_are_all_there_comes_to_rest_with_the_wanted_voters(
    hosts: int, begun: int
) -> None:
    facts = pool(hosts, *(voter(n) for n in range(begun)))
    for _ in range(50):
        step = next_step(replace(facts, quiet_seconds=QUIET_SECONDS))
        if step == Wait():
            break
        facts = done(facts, step)
        caught_up = tuple(replace(m, in_sync=True, id=n) for n, m in enumerate(facts.members))
        facts = replace(facts, members=caught_up)
    assert len(facts.members) == min(wanted(hosts), hosts)
    assert not any(m.learner for m in facts.members)


def test_a_voter_whose_host_has_moved_is_looked_for_there_before_anything_else() -> None:
    one, two, three = (
        replace(voter(n, gone=5.0 * n), peer=f"192.0.2.{n}:7445", at=f"192.0.2.{n}:7445")
        for n in range(3)
    )
    moved = replace(two, at="192.0.2.9:7445")
    assert next_step(pool(3, one, two, three)) == Wait()
    assert next_step(pool(3, one, moved, three, quiet=0.0)) == Readdress(1, "192.0.2.9:7445")
    # It has the address of one that has moved as well: that one goes first.
    follows = replace(three, at=two.peer)
    assert next_step(pool(3, follows, moved, one)) == Readdress(1, "192.0.2.9:7445")
    # Two that have changed places cannot be told so, one after the other.
    assert next_step(pool(3, one, replace(two, at=three.peer), replace(three, at=two.peer))) == (
        Wait()
    )
