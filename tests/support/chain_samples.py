"""Chains of commits, and the states they lead to, for tests of what keeps them."""

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import strategies as st

from poolcore.model import VM, Incarnation, Kind, Object, Pool, PoolId, PowerState, VmId
from poolcore.replica import Change, CommitId, Delta, Put, Remove, State, apply, snapshot
from poolcore.requests import RequestRecord
from poolcore.wire.chain import encode_delta
from support.strategies import objects

POOL = PoolId("11111111-1111-4111-8111-111111111111")
INCARNATION = Incarnation(1, "22222222-2222-4222-8222-222222222222")
POOL_OBJECT = Pool(uuid=POOL, name_label="production")
FOUNDED = snapshot(INCARNATION, CommitId(1, 1), [POOL_OBJECT], [])
"""A pool after its first commit."""


def following(state: State, changes: tuple[Change, ...], *, asked: bool, new_term: bool) -> Delta:
    """The delta that carries `changes` and follows `state`, with a request of its own if asked."""
    commit = CommitId(state.last.term + new_term, state.revision + 1)
    request = RequestRecord(f"0-nonce{commit.revision:08}", b"hash", commit.revision)
    return Delta(state.incarnation.uuid, commit, state.last, changes, request if asked else None)


def _placed(obj: Object, uuid: str) -> Object:
    """The object under a uuid that may be another object's; there is one pool, and it is this."""
    if isinstance(obj, Pool):
        return replace(obj, uuid=POOL, history_revisions=obj.history_revisions % 6)
    return replace(obj, uuid=uuid)


uuids = st.sampled_from("abcd")
changes = st.one_of(
    st.builds(Put, st.builds(_placed, objects, uuids)),
    st.builds(Remove, st.sampled_from([k for k in Kind if k is not Kind.POOL]), uuids),
)
commits = st.lists(
    st.tuples(st.lists(changes, max_size=4).map(tuple), st.booleans(), st.booleans()), max_size=12
)
"""The content of consecutive commits: changes, whether a request asked for them, a new term."""


def vm(number: int, name: str) -> VM:
    """One of many machines."""
    uuid = VmId(f"00000000-0000-4000-8000-{number:012}")
    return VM(uuid=uuid, name_label=name, power_state=PowerState.HALTED)


def endless(state: State) -> Iterator[tuple[Delta, bytes, State]]:
    """The same deltas after `state` in every process, each with its bytes and what it leads to."""
    while True:
        revision = state.revision + 1
        put = Put(vm(revision % 50, f"at {revision}"))
        remove = Remove(Kind.VM, vm((revision + 25) % 50, "").uuid)
        delta = following(state, (put, remove), asked=revision % 2 == 0, new_term=revision % 7 == 0)
        state = apply(state, delta)
        yield delta, encode_delta(delta), state


def crowded(revision: int, machines: int) -> State:
    """A pool with that many machines, all named after the revision."""
    vms = [vm(n, f"at {revision}") for n in range(machines)]
    return snapshot(INCARNATION, CommitId(1, revision), [POOL_OBJECT, *vms], [])
