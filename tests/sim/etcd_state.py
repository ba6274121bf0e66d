"""What one member of a simulated etcd makes of its log: keys, revisions, leases and members.

Every member applies the same commands in the same order, so all that is here follows from them and
from nothing else: no time, no dice. etcd's own rules hold: revisions begin at 1 and grow by one
with each transaction that changes something, a compaction drops what was overwritten before its
revision, also from the history that watches are told from.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import grpc

from poolmanager.etcd.v3 import rpc_pb2 as pb

Compare = pb.Compare


class Refused(Exception):
    """etcd's answer is an error."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Noop:
    """What a new leader begins with."""


@dataclass(frozen=True, slots=True)
class Txn:
    """A transaction."""

    request: pb.TxnRequest


@dataclass(frozen=True, slots=True)
class Compact:
    """Drop what was overwritten before `revision`."""

    revision: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease of that id."""

    lease: int
    ttl_seconds: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """The end of a lease: somebody said so, or nobody kept it alive."""

    lease: int


@dataclass(frozen=True, slots=True)
class Joined:
    """A member is added, as a learner."""

    id: int
    peer: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """A learner is given its vote."""

    id: int


@dataclass(frozen=True, slots=True)
class Removed:
    """A member is taken out."""

    id: int


@dataclass(frozen=True, slots=True)
class Published:
    """A member has started, and says who it is."""

    id: int
    name: str
    client: str


Command = Noop | Txn | Compact | Grant | Revoke | Joined | Promoted | Removed | Published


@dataclass(frozen=True, slots=True)
class ListedMember:
    """A member as the cluster knows it."""

    id: int
    peer: str
    name: str = ""
    client: str = ""
    learner: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A key's value, and where it comes from."""

    value: bytes
    created: int
    modified: int
    lease: int


@dataclass(frozen=True, slots=True)
class Change:
    """A key was written, or removed, by a revision."""

    key: bytes
    value: bytes | None
    revision: int


@dataclass
class EtcdState:
    """See the module's docstring."""

    members: dict[int, ListedMember]
    gone: set[int] = field(default_factory=set)
    """Members that were taken out."""
    revision: int = 1
    compacted: int = 0
    """Of older revisions only what they left is known."""
    leases: dict[int, int] = field(default_factory=dict)
    """How many seconds each lasts."""
    history: list[Change] = field(default_factory=list)
    _records: dict[bytes, Record] = field(default_factory=dict)
    _keys: list[bytes] = field(default_factory=list)

    @property
    def voters(self) -> list[int]:
        return [member.id for member in self.members.values() if not member.learner]

    def apply(self, command: Command) -> pb.TxnResponse | None:
        """Do what a command says; raises `Refused` where etcd answers with an error."""
        match command:
            case Txn(request):
                return self.transact(request)
            case Compact(revision):
                self._compact(revision)
            case Grant(lease, seconds):
                self.leases[lease] = seconds
            case Revoke(lease):
                self._revoke(lease)
            case Joined(id, peer):
                if any(member.peer == peer for member in self.members.values()):
                    text = "etcdserver: Peer URLs already exists"
                    raise Refused(grpc.StatusCode.FAILED_PRECONDITION, text)
                self.members[id] = ListedMember(id, peer, learner=True)
            case Promoted(id):
                self.members[id] = replace(self._member(id), learner=False)
            case Removed(id):
                self._member(id)
                del self.members[id]
                self.gone.add(id)
            case Published(id, name, client):
                if id in self.members:
                    self.members[id] = replace(self.members[id], name=name, client=client)
            case Noop():
                pass
        return None

    def _member(self, id: int) -> ListedMember:
        if id not in self.members:
            raise Refused(grpc.StatusCode.NOT_FOUND, "etcdserver: member not found")
        return self.members[id]

    # -- transactions -----------------------------------------------------------------------------

    def transact(self, request: pb.TxnRequest) -> pb.TxnResponse:
        """What a transaction comes to; one that only reads changes nothing."""
        succeeded = all(map(self._holds, request.compare))
        operations = request.success if succeeded else request.failure
        for operation in operations:
            lease = operation.request_put.lease
            if lease and lease not in self.leases:
                text = "etcdserver: requested lease not found"
                raise Refused(grpc.StatusCode.NOT_FOUND, text)
        answer = pb.TxnResponse(succeeded=succeeded)
        revision = self.revision + 1
        for operation in operations:
            told = answer.responses.add()
            if operation.HasField("request_range"):
                told.response_range.CopyFrom(self.range(operation.request_range))
            elif operation.HasField("request_put"):
                put = operation.request_put
                self._put(put.key, put.value, put.lease, revision)
            else:
                self._delete(operation.request_delete_range.key, revision)
        answer.header.revision = self.revision
        return answer

    def _holds(self, compare: pb.Compare) -> bool:
        record = self._records.get(compare.key)
        assert compare.result == Compare.EQUAL, "nothing else is asked for"
        match compare.target:
            case Compare.VALUE:
                return record is not None and record.value == compare.value
            case Compare.CREATE:
                return (0 if record is None else record.created) == compare.create_revision
            case Compare.MOD:
                return (0 if record is None else record.modified) == compare.mod_revision
        raise ValueError(compare)

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """The keys that a range has now."""
        keys = self._keys_in(request.key, request.range_end)
        limited = keys[: request.limit] if request.limit else keys
        answer = pb.RangeResponse(more=len(limited) < len(keys), count=len(keys))
        for key in limited:
            record = self._records[key]
            answer.kvs.add(
                key=key,
                value=b"" if request.keys_only else record.value,
                create_revision=record.created,
                mod_revision=record.modified,
                lease=record.lease,
            )
        return answer

    def _keys_in(self, start: bytes, end: bytes) -> Sequence[bytes]:
        if not end:
            return [start] if start in self._records else []
        first = bisect.bisect_left(self._keys, start)
        return self._keys[first : bisect.bisect_left(self._keys, end, lo=first)]

    def _put(self, key: bytes, value: bytes, lease: int, revision: int) -> None:
        before = self._records.get(key)
        if before is None:
            bisect.insort(self._keys, key)
        created = revision if before is None else before.created
        self._records[key] = Record(value, created, revision, lease)
        self._changed(key, value, revision)

    def _delete(self, key: bytes, revision: int) -> None:
        if self._records.pop(key, None) is not None:
            del self._keys[bisect.bisect_left(self._keys, key)]
            self._changed(key, None, revision)

    def _changed(self, key: bytes, value: bytes | None, revision: int) -> None:
        self.revision = revision
        self.history.append(Change(key, value, revision))

    # -- what lapses ------------------------------------------------------------------------------

    def _revoke(self, lease: int) -> None:
        if self.leases.pop(lease, None) is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
        revision = self.revision + 1
        for key in [key for key, record in self._records.items() if record.lease == lease]:
            self._delete(key, revision)

    def _compact(self, revision: int) -> None:
        if revision <= self.compacted:
            text = "etcdserver: mvcc: required revision has been compacted"
            raise Refused(grpc.StatusCode.OUT_OF_RANGE, text)
        if revision > self.revision:
            text = "etcdserver: mvcc: required revision is a future revision"
            raise Refused(grpc.StatusCode.OUT_OF_RANGE, text)
        self.compacted = revision
        # What a revision left is kept; that it removed something is not.
        self.history = [
            change
            for change in self.history
            if change.revision > revision
            or (change.revision == revision and change.value is not None)
        ]

    def changes(self, start: bytes, end: bytes, *, since: int) -> Iterator[Change]:
        """What is kept of `[start, end)` from revision `since` on, in order."""
        first = bisect.bisect_left(self.history, since, key=lambda change: change.revision)
        for change in self.history[first:]:
            if start <= change.key < end:
                yield change
