"""What the disk of this host's etcd has of the chain beyond what the replicas have.

For a person who goes on without a quorum. A commit is acknowledged when a majority of the voters
has it on their disks, and reaches the replicas a moment later; so when the others are lost in that
moment, one voter's disk may be all that has it. It is read, never continued: a member that is
forced to go on alone (`--force-new-cluster`) drops the very entries of which it had not heard yet
that they were committed, and would evict the others if they came back.

Which of them were committed one disk cannot tell. Those that were not had an unknown outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from poolcore.facts import KnownCommit, Tail
from poolmanager.etcd.v3 import rpc_pb2 as rpc
from poolmanager.etcd.v3 import wal_pb2 as pb
from poolmaster.layout import HEAD, decode_head, log_key
from poolmember.etcd.wal import Log, logs


def read_tail(data: Path, prefix: bytes, last: KnownCommit) -> Tail:
    """What the data directory has, under `prefix`, beyond the commit `last`.

    Empty if the chain does not go on from just that commit there.
    """
    log = Log((), whole=True, from_the_beginning=True)
    try:
        for log in logs(data):
            found = _after(log.entries, prefix, last)
            if found is not None:
                return _tail(log, found, prefix, last.revision)
    except OSError:
        return Tail(whole=False)
    # It has not got there yet; or that was so long ago that the log does not go back to it.
    return Tail(whole=log.whole and log.from_the_beginning)


def _after(
    entries: Sequence[pb.RaftEntry], prefix: bytes, last: KnownCommit
) -> list[rpc.TxnRequest] | None:
    """The transactions from the one on that wrote that commit; none if it is not among them."""
    key = prefix + log_key(last.revision)
    found: list[rpc.TxnRequest] = []
    for entry in reversed(entries):
        transaction = _transaction(entry)
        if transaction is None:
            continue
        found.append(transaction)
        for op in transaction.success:
            put = op.request_put
            if put.key == key and KnownCommit.of(last.revision, put.value) == last:
                return found[::-1]
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
    for nth, transaction in enumerate(transactions):
        # The first one was applied: a replica has what it wrote.
        if nth and not all(_holds(compare, values) for compare in transaction.compare):
            continue
        for op in transaction.success:
            if op.HasField("request_put"):
                values[op.request_put.key] = op.request_put.value
            elif op.HasField("request_delete_range"):
                values[op.request_delete_range.key] = None
    register = values[prefix + HEAD]
    if register is None:
        return Tail(whole=log.whole)
    head, last = decode_head(register), log.entries[-1]
    deltas = [
        delta
        for following in range(revision + 1, head.revision + 1)
        if (delta := values.get(prefix + log_key(following))) is not None
    ]
    position = (head.incarnation.counter, last.term, last.index)
    return Tail(position, tuple(deltas), whole=log.whole)


def _holds(compare: rpc.Compare, values: dict[bytes, bytes | None]) -> bool:
    """Whether it holds, as far as is known: of the keys that matter everything is."""
    if compare.key not in values:
        return True
    if compare.target == rpc.Compare.VALUE:
        return values[compare.key] == compare.value
    if compare.target == rpc.Compare.CREATE and compare.create_revision == 0:
        return values[compare.key] is None
    return True
