"""What the disk of this host's etcd has of the chain beyond what the replicas have.

For a person who goes on without a quorum. A commit is acknowledged when a majority of the voters
has it on their disks, and reaches the replicas a moment later; so when the others are lost in that
moment, one voter's disk may be all that has it. It is read, never continued: a member that is
forced to go on alone (`--force-new-cluster`) drops the very entries of which it had not heard yet
that they were committed, and would evict the others if they came back.

Which of them were committed one disk cannot tell. Those that were not had an unknown outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from google.protobuf.message import DecodeError

from poolcore.facts import KnownCommit, Tail
from poolcore.model import Host, HostId
from poolcore.replica import State, apply
from poolcore.wire.chain import decode_delta
from poolmanager.etcd.v3 import rpc_pb2 as rpc
from poolmanager.etcd.v3 import wal_pb2 as pb
from poolmaster.layout import HEAD, decode_head, log_key
from poolmember.etcd.wal import Log, logs


def read_tail(data: Path, prefix: bytes, last: KnownCommit) -> Tail:
    """What the data directory has, under `prefix`, beyond the commit `last`.

    Empty if the chain does not go on from just that commit there.
    """
    try:
        return tail_in(logs(data), prefix, last)
    except OSError:
        return Tail(whole=False)


def tail_in(logs: Iterable[Log], prefix: bytes, last: KnownCommit) -> Tail:
    """That, in a log of which ever more is read (`poolmember.etcd.wal.logs`)."""
    log, found = Log((), whole=True), None
    for log in logs:
        found = _after(log.entries, prefix, last)
        if found is not None and found.is_first:
            break
    if found is not None:
        return _tail(log, found.transactions, prefix, last.revision)
    # It has not got there yet; or that was so long ago that the log does not go back to it.
    return Tail(whole=log.whole and log.from_the_beginning)


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a commit was written."""

    transactions: Sequence[rpc.TxnRequest]
    """From that on."""
    is_first: bool
    """Whether it was not written earlier: one whose outcome was not known is sent again, and the
    one that lands last is refused."""


def _after(entries: Sequence[pb.RaftEntry], prefix: bytes, last: KnownCommit) -> _Found | None:
    """The transactions from the first one on that has that commit; none if it is not there."""
    transactions = [found for entry in entries if (found := _transaction(entry)) is not None]
    key, register = prefix + log_key(last.revision), prefix + HEAD
    registers: set[bytes] = set()
    for nth, transaction in enumerate(transactions):
        puts = [op.request_put for op in transaction.success if op.HasField("request_put")]
        if any(p.key == key and KnownCommit.of(last.revision, p.value) == last for p in puts):
            # Only what finds the register as it was before is applied; the first one did.
            before = [c.value for c in transaction.compare if c.key == register and c.value]
            return _Found(transactions[nth:], is_first=registers.issuperset(before))
        registers.update(p.value for p in puts if p.key == register)
    return None


def _transaction(entry: pb.RaftEntry) -> rpc.TxnRequest | None:
    if entry.type:
        return None
    try:
        request = pb.RaftRequest.FromString(entry.data)
    except DecodeError:
        return None  # A message of etcd's second API, in which members announce themselves.
    return request.txn if request.HasField("txn") else None


def _tail(log: Log, transactions: Sequence[rpc.TxnRequest], prefix: bytes, revision: int) -> Tail:
    """The commits beyond `revision` that these transactions lead to, as etcd would apply them."""
    # Nobody founds a store that has a register already: where the first one writes none, it copies.
    values: dict[bytes, bytes | None] = {prefix + HEAD: None}
    written: dict[bytes, bytes] = {}
    for nth, transaction in enumerate(transactions):
        # The first one was applied: a replica has what it wrote.
        if nth and not all(_holds(compare, values) for compare in transaction.compare):
            continue
        for op in transaction.success:
            if op.HasField("request_put"):
                values[op.request_put.key] = written[op.request_put.key] = op.request_put.value
            elif op.HasField("request_delete_range"):
                values[op.request_delete_range.key] = None
    register = values[prefix + HEAD]
    if register is None:
        return Tail(whole=log.whole)
    head, last = decode_head(register), log.entries[-1]
    # Also those that have left the store's history since.
    keys = [prefix + log_key(each) for each in range(revision + 1, head.revision + 1)]
    deltas = [written[key] for key in takewhile(written.__contains__, keys)]
    position = (head.incarnation.counter, last.term, last.index)
    return Tail(position, tuple(deltas), whole=log.whole and len(deltas) == len(keys))


def _holds(compare: rpc.Compare, values: dict[bytes, bytes | None]) -> bool:
    """Whether it holds, as far as is known: of the keys that matter everything is."""
    if compare.key not in values:
        return True
    if compare.target == rpc.Compare.VALUE:
        return values[compare.key] == compare.value
    if compare.target == rpc.Compare.CREATE and compare.create_revision == 0:
        return values[compare.key] is None
    return True


def while_of_pool(state: State, host: HostId, deltas: Sequence[bytes]) -> Sequence[bytes]:
    """Of the commits that follow `state` those before the one by which the host left the pool."""
    for nth, data in enumerate(deltas):
        state = apply(state, decode_delta(data))
        if state.get(Host, host) is None:
            return deltas[:nth]
    return deltas
