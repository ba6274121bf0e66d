"""Who is to be master: when a host suspects the present one, whom it asks, and when it claims.

Pure: facts with their times in, what to do next out (design §5). Nothing here keeps the pool safe;
that does the compare of `head`, which only one claim can win. These rules are for the rest: that a
dead master is replaced within a second, that a living one is not, and that the best host is next.

A host that does not hear its master asks the others. When a majority of the pool's hosts does not
hear it either, the best of those that may lead claims at once, the others a little later each, so
that they need not meet in the store. A host without a majority, the last one left perhaps, waits
until the master's `alive` key has expired.

What is not promised: that the best host wins. Answers are lost, and a host that is late with its
question may claim first; it is as good a master as any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from poolcore.facts import Standing
from poolcore.model import FailoverTimings, HostId

NEXT_CANDIDATE_SECONDS = 0.15
"""How much later than the one before it each further candidate claims: time enough to win.

Less where there are so many, or the timings so short, that the last would not have its turn within
the round.
"""
LONGEST_BACKOFF_SECONDS = 5.0
LATE_PERIODS = 4
"""For so many suspect periods a master whose session is up may send nothing and still answer that
it leads: its machine has too much to do, and so has that of its successor perhaps. Who answers but
cannot feed its members for longer is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of asking the others."""

    ended_at: float
    own: Standing
    answers: tuple[Standing, ...]
    """Of those that answered in time; the master too, if it did."""
    master_answers: bool = False
    """Whether the very host that the register names said, too, that it leads."""
    alive: bool | None
    """Whether the `alive` key of a master is in the store; none: the store did not answer."""

    @property
    def deaf(self) -> int:
        """How many hosts said that they do not hear the master, this one included."""
        return sum(not standing.hears_master for standing in (self.own, *self.answers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a host that is not master knows. Times are its own monotonic clock's, in seconds."""

    now: float
    hosts: int
    """How many hosts the pool has, witnesses and the master included."""
    heard_at: float
    """When the master was last heard, or since when one is looked for."""
    lost: bool
    """A session with the master has ended, and no other has begun since."""
    ours: bool = False
    """The register names this host: its mastership ended with the last run of its daemon."""
    round: Round | None = None
    """The last round of asking; none since the master was last heard."""
    in_vain: int = 0
    """How many changes of master there were lately, one after the other."""
    jitter: float = 0.0
    """From 0 to 1, of this host's own dice; thrown once for each change in vain."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until `until`, or until something else has happened."""

    until: float
    why: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the other hosts whether they hear the master, and the store for `head` and `alive`."""

    why: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Swap `head`."""

    why: str


Action = Wait | Ask | Claim


def next_action(facts: Facts, timings: FailoverTimings) -> Action:
    """What a host that is not master does now."""
    suspect_at = facts.heard_at + timings.suspect_seconds
    suspected = facts.lost or facts.now >= suspect_at
    if facts.ours:
        if facts.in_vain and not suspected:
            return Wait(suspect_at, "the last claim has failed")
        return Claim("the register names this host")
    if not suspected:
        return Wait(suspect_at, "the master is heard")
    asked = facts.round
    if asked is None:
        return Ask("its session has ended" if facts.lost else "the master is silent")
    if facts.now >= asked.ended_at + timings.suspect_seconds:
        return Ask("no master has come of the last round")
    return _after_asking(facts, asked, timings)


def _after_asking(facts: Facts, asked: Round, timings: FailoverTimings) -> Wait | Claim:
    again = asked.ended_at + timings.suspect_seconds
    if not asked.own.may_lead:
        return Wait(again, "this host may not lead")
    candidates = best((asked.own, *asked.answers))
    if asked.own not in candidates:
        return Wait(again, "this host is in maintenance, and another may lead")
    by_majority = 2 * asked.deaf > facts.hosts
    deaf = f"{asked.deaf} of {facts.hosts} hosts do not hear the master"
    if not by_majority and asked.alive is not False:
        return Wait(again, deaf)
    late_until = facts.heard_at + LATE_PERIODS * timings.suspect_seconds
    if asked.master_answers and not facts.lost and facts.now < late_until:
        return Wait(min(again, late_until), "the master is late and says so itself")
    backed_off_at = _backed_off_at(facts, timings)
    if facts.now < backed_off_at:
        return Wait(min(backed_off_at, again), "masters have changed too often lately")
    claim_at = max(asked.ended_at, backed_off_at)
    claim_at += candidates.index(asked.own) * _apart(len(candidates), timings)
    if facts.now < claim_at:
        return Wait(min(claim_at, again), "better candidates go first")
    return Claim(deaf if by_majority else "the master has not kept its key alive")


def preference(
    *, revision: int, priority: int, host: HostId, in_maintenance: bool
) -> tuple[bool, int, int, str]:
    """The key that sorts hosts, the best next master first: newest replica, priority, uuid.

    Hosts in maintenance come after all others.
    """
    return in_maintenance, -revision, -priority, host


def best(standings: Iterable[Standing]) -> list[Standing]:
    """The candidates, the best first: those in maintenance are some only if there are no others."""
    able = sorted(
        (s for s in standings if s.may_lead),
        key=lambda s: preference(
            revision=s.revision,
            priority=s.priority,
            host=s.host,
            in_maintenance=s.in_maintenance,
        ),
    )
    return [s for s in able if not s.in_maintenance] or able


def _apart(candidates: int, timings: FailoverTimings) -> float:
    """Seconds between the claims of one candidate and the next."""
    return min(NEXT_CANDIDATE_SECONDS, timings.suspect_seconds / candidates)


def _backed_off_at(facts: Facts, timings: FailoverTimings) -> float:
    """Until when this host holds back.

    Counted from the first round's end at the latest, whichever round it is now: asking again must
    not postpone the claim again, and a claim must not rest on answers of long ago.
    """
    if not facts.in_vain:
        return facts.heard_at
    asked_at = facts.heard_at + (0.0 if facts.lost else timings.suspect_seconds)
    # More doublings than these change nothing, and many more are no float.
    backoff: float = min(
        timings.vote_seconds * 2 ** min(facts.in_vain, 32), LONGEST_BACKOFF_SECONDS
    )
    return asked_at + timings.vote_seconds + backoff * facts.jitter


def may_speak(now: float, confirmed_at: float, timings: FailoverTimings) -> bool:
    """Whether a master may send heartbeats: `head` was seen to be its own recently enough."""
    return now - confirmed_at < timings.confirm_seconds
