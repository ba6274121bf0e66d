"""What is looked at when the faults are over: everything that clients were told, and the chain.

Whether the answers fit together is found without the chain (`support.linearizability`), whether
they are true and in order with it (`support.timeline`); the rest is about the chain itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from poolcore.replica import CommitId, Delta, Head
from support import linearizability, timeline
from support.history import Operation
from support.timeline import Timeline


def findings(
    operations: Sequence[Operation],
    deltas: Sequence[Delta],
    heads: Sequence[Head],
    seen: Iterable[Sequence[CommitId]],
) -> list[str]:
    """What is wrong with a run, in words; `seen` is what each watcher was told, in order."""
    return [
        *of_answers(operations),
        *timeline.findings(operations, Timeline(deltas)),
        *of_masters(heads, deltas),
        *of_requests(deltas),
        *of_watchers(seen, deltas),
    ]


def of_answers(operations: Iterable[Operation]) -> list[str]:
    """At each register there is an order that explains all answers."""
    try:
        return [str(violation) for violation in linearizability.check(operations)]
    except linearizability.Undecided as error:
        return [f"not decided: {error}"]


def of_masters(heads: Sequence[Head], deltas: Sequence[Delta]) -> Iterator[str]:
    """The register only goes on, each term has one master, each commit is of the register's term.

    `heads` are all values that the register had, one after the other, in the store that the pool
    has now; commits of before are of another one.
    """
    masters = {head.term: head.master for head in reversed(heads)}
    for head in heads:
        if masters[head.term] != head.master:
            yield f"two writers in term {head.term}: {masters[head.term]} and {head.master}"
    for before, head in pairwise(heads):
        if head.term < before.term or head.revision < before.revision:
            yield f"the register goes back: {before}, and then {head}"
        if head.term != before.term and head.revision != before.revision:
            yield f"a new master that commits in the same breath: {before}, and then {head}"
    terms = {head.revision: head.term for head in reversed(heads)}
    revisions = sorted(terms)
    at, first = 0, min(revisions, default=0)
    for delta in deltas:
        while at < len(revisions) and revisions[at] < delta.commit.revision:
            at += 1
        if delta.commit.revision < first:
            continue
        if at < len(revisions) and terms[revisions[at]] != delta.commit.term:
            yield f"{delta.commit} was written when the register had term {terms[revisions[at]]}"


def of_requests(deltas: Iterable[Delta]) -> Iterator[str]:
    """No request is made twice."""
    made: dict[str, CommitId] = {}
    for delta in deltas:
        if delta.request is not None:
            first = made.setdefault(delta.request.id, delta.commit)
            if first is not delta.commit:
                yield f"the request {delta.request.id} was made at {first} and at {delta.commit}"


def of_watchers(seen: Iterable[Sequence[CommitId]], deltas: Sequence[Delta]) -> Iterator[str]:
    """Each watcher was told of every commit, once, in order."""
    commits = [delta.commit for delta in deltas]
    for number, told in enumerate(seen):
        for place, commit in enumerate(commits):
            if place == len(told) or told[place] != commit:
                found = told[place] if place < len(told) else "nothing"
                yield f"watcher {number} was told of {found} instead of {commit}"
                break
