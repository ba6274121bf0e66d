"""What holds for every decision about who is to be master, whatever the facts are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from poolcore.facts import Standing
from poolcore.model import FailoverTimings, HostId
from poolmaster.decide.leadership import (
    LONGEST_BACKOFF_SECONDS,
    Ask,
    Claim,
    Facts,
    Round,
    Wait,
    best,
    may_speak,
    next_action,
)

LARGEST_POOL = 64
DEAF = Standing(
    host=HostId("host"), revision=1, priority=100, hears_master=False, reaches_store=True
)

seconds = st.floats(0.01, 10.0)
timings = st.builds(
    FailoverTimings,
    suspect_seconds=seconds,
    vote_seconds=seconds,
    confirm_seconds=seconds,
)
# Up to thirty years; a float is exact to less than a microsecond there.
moments = st.one_of(st.floats(0.0, 20.0), st.floats(0.0, 1e9))
ages = st.one_of(st.just(0.0), st.floats(0.0, 0.4), st.floats(0.0, 12.0))


standings = st.builds(
    Standing,
    host=st.just(HostId("host")),
    revision=st.integers(0, 5),
    priority=st.sampled_from([0, 50, 100, 100]),
    hears_master=st.sampled_from([False, False, True]),
    reaches_store=st.sampled_from([True, True, True, False]),
    in_maintenance=st.sampled_from([False, False, True]),
)


def named(found: list[Standing]) -> tuple[Standing, ...]:
    return tuple(replace(s, host=HostId(f"host{n:02}")) for n, s in enumerate(found))


pools = st.lists(standings, min_size=1, max_size=9).map(named)
"""Where each host of a pool stands that answers in a round."""


@st.composite
def rounds(draw: st.DrawFn, ended_at: float) -> Round:
    pool = draw(pools)
    own = draw(st.sampled_from(pool))
    return seen_by(own, pool, ended_at=ended_at, alive=draw(st.sampled_from([True, False, None])))


def seen_by(
    own: Standing, pool: tuple[Standing, ...], *, ended_at: float, alive: bool | None
) -> Round:
    """The round of one host of the pool, when all the others have answered."""
    answers = tuple(standing for standing in pool if standing is not own)
    return Round(ended_at=ended_at, own=own, answers=answers, alive=alive)


@st.composite
def situations(draw: st.DrawFn) -> Facts:
    """Facts that a host may come to have; all its times have been."""
    now = draw(moments)
    asked = draw(st.one_of(st.none(), rounds(now - draw(ages))))
    return Facts(
        now=now,
        hosts=draw(st.integers(1, 12)),
        heard_at=now - draw(ages),
        lost=draw(st.booleans()),
        ours=draw(st.booleans()),
        round=asked,
        in_vain=draw(st.one_of(st.just(0), st.integers(0, 6), st.integers(0, 10_000))),
        jitter=draw(st.floats(0.0, 1.0)),
    )


def has_been_heard(facts: Facts, timings: FailoverTimings) -> bool:
    """Whether the master gives no reason yet to suspect it."""
    return not facts.lost and facts.now < facts.heard_at + timings.suspect_seconds


@given(situations(), timings)
def test_a_wait_ends_later_than_now_and_within_a_suspect_period(
    facts: Facts, timings: FailoverTimings
) -> None:
    action = next_action(facts, timings)
    assert isinstance(action, Wait | Ask | Claim)
    if isinstance(action, Wait):
        # Nothing that is waited for lies further away, so new answers are never long in coming.
        assert facts.now < action.until <= facts.now + timings.suspect_seconds + 1e-6


@given(situations(), timings)
def test_a_claim_has_its_reasons(facts: Facts, timings: FailoverTimings) -> None:
    facts = replace(facts, ours=False)
    action = next_action(facts, timings)
    if has_been_heard(facts, timings):
        assert isinstance(action, Wait)
    if isinstance(action, Claim):
        asked = facts.round
        assert asked is not None
        assert asked.own.may_lead
        assert 2 * asked.deaf > facts.hosts or asked.alive is False
        assert facts.now < asked.ended_at + timings.suspect_seconds, "on answers of long ago"


@given(situations(), timings)
def test_the_host_in_the_register_claims_unless_it_has_just_failed_to(
    facts: Facts, timings: FailoverTimings
) -> None:
    facts = replace(facts, ours=True)
    failed = bool(facts.in_vain) and has_been_heard(facts, timings)
    assert isinstance(next_action(facts, timings), Wait if failed else Claim)


@given(pools, timings, st.sampled_from([True, False, None]))
def test_of_those_that_see_the_same_exactly_one_claims_without_delay(
    pool: tuple[Standing, ...], timings: FailoverTimings, alive: bool | None
) -> None:
    claiming = []
    for own in pool:
        facts = Facts(
            now=100.0,
            hosts=len(pool),
            heard_at=0.0,
            lost=False,
            round=seen_by(own, pool, ended_at=100.0, alive=alive),
        )
        if isinstance(next_action(facts, timings), Claim):
            claiming.append(own)
    candidates = best(pool)
    deaf = sum(not standing.hears_master for standing in pool)
    may_be_claimed = 2 * deaf > len(pool) or alive is False
    assert claiming == (candidates[:1] if may_be_claimed else [])


@given(
    st.integers(1, LARGEST_POOL).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    timings,
    st.builds(
        Facts,
        now=st.just(0.0),
        hosts=st.just(0),
        heard_at=st.just(0.0),
        lost=st.booleans(),
        in_vain=st.integers(0, 10_000),
        jitter=st.floats(0.0, 1.0),
    ),
)
@example((64, 63), FailoverTimings(), Facts(now=0.0, hosts=0, heard_at=0.0, lost=False))
def test_every_candidate_comes_to_claim_even_if_no_other_ever_does(
    place: tuple[int, int], timings: FailoverTimings, facts: Facts
) -> None:
    pool = named([DEAF] * place[0])
    facts = replace(facts, hosts=len(pool))
    while not isinstance(action := next_action(facts, timings), Claim):
        if isinstance(action, Wait):
            facts = replace(facts, now=action.until)
        else:
            ended_at = facts.now + timings.vote_seconds
            answered = seen_by(pool[place[1]], pool, ended_at=ended_at, alive=True)
            facts = replace(facts, now=ended_at, round=answered)
        rounds = 3 * (timings.suspect_seconds + timings.vote_seconds)
        assert facts.now < LONGEST_BACKOFF_SECONDS + rounds, "it never does"


@given(pools)
def test_a_newer_replica_is_never_ordered_behind_an_older_one(
    candidates: tuple[Standing, ...],
) -> None:
    ordered = best(candidates)
    able = [s for s in candidates if s.may_lead]
    enabled = [s for s in able if not s.in_maintenance]
    assert {s.host for s in ordered} == {s.host for s in enabled or able}
    for better, worse in pairwise(ordered):
        assert better.revision >= worse.revision
        if better.revision == worse.revision:
            assert better.priority >= worse.priority
            if better.priority == worse.priority:
                assert better.host < worse.host
    assert best(reversed(candidates)) == ordered, "in whatever order the answers came"


@given(moments, ages, timings)
def test_a_master_speaks_only_while_its_head_was_confirmed_lately(
    confirmed_at: float, age: float, timings: FailoverTimings
) -> None:
    now = confirmed_at + age
    assert may_speak(now, confirmed_at, timings) == (now - confirmed_at < timings.confirm_seconds)
