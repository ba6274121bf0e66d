"""Where things are in the store, and how the pool's state is read from there.

    head                    the register: a serialized Head
    log/<revision>          the delta of each kept revision, as it was committed
    obj/<kind>/<uuid>       each object as of head
    req/<request id>        each remembered request: a serialized RequestRecord
    nonce                   new with each mastership: a joining host shows it to prove that it sees
                            the same store
    alive                   the present master's uuid, under a lease: gone when it has not been kept

Revisions in keys are 16 hexadecimal digits, so that keys sort as revisions do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from poolcore.model import Host, HostId, Kind, Object, Pool
from poolcore.replica import CommitId, Delta, Head, Put, State, snapshot
from poolcore.requests import RequestRecord
from poolcore.wire.chain import decode_delta
from poolcore.wire.codec import decode_object, from_proto, parse, serialize, to_proto
from poolmanager.v1 import chain_pb2
from poolmaster.store.contract import Item, Store, StoreFailed, Write, prefix_end

HEAD = b"head"
LOG = b"log/"
OBJECTS = b"obj/"
REQUESTS = b"req/"
NONCE = b"nonce"
ALIVE = b"alive"

PAGE = 2_000


def log_key(revision: int) -> bytes:
    """The key of a revision's delta."""
    return LOG + b"%016x" % revision


def object_key(kind: Kind, uuid: str) -> bytes:
    """The key of an object."""
    return OBJECTS + f"{kind}/{uuid}".encode()


def request_key(id_: str) -> bytes:
    """The key of a request's record."""
    return REQUESTS + id_.encode()


def encode_head(head: Head) -> bytes:
    """The value of the register."""
    return serialize(to_proto(head))


def decode_head(data: bytes) -> Head:
    """The register of its value."""
    head: Head = from_proto(parse(chain_pb2.Head, data))
    return head


def commit_writes(before: State, after: State, delta: Delta, data: bytes) -> dict[bytes, Write]:
    """The writes of one commit but for `head`, by key; `data` is the serialized `delta`.

    `after` is what `delta` makes of `before`. Includes dropping what leaves the history, by the
    rule of `RequestWindow` and the replicas: the oldest delta and the request it carried.
    """
    revision = delta.commit.revision
    writes = {log_key(revision): Write(log_key(revision), data)}
    # What is in `data` is already encoded; cutting it out takes a tenth of encoding it again.
    message = parse(chain_pb2.Delta, data)
    for change, encoded in zip(delta.changes, message.changes, strict=True):
        if isinstance(change, Put):
            obj = change.object
            key = object_key(obj.KIND, obj.uuid)
            writes[key] = Write(key, serialize(encoded.put))
        else:
            key = object_key(change.kind, change.uuid)
            writes[key] = Write(key, None)
    if delta.request is not None:
        key = request_key(delta.request.id)
        writes[key] = Write(key, serialize(message.request))
    leaving = revision - after.history_revisions
    if leaving > 0:
        writes[log_key(leaving)] = Write(log_key(leaving), None)
        forgotten = before.requests.by_revision.get(leaving)
        if forgotten is not None:
            writes[request_key(forgotten)] = Write(request_key(forgotten), None)
    return writes


async def read_head(store: Store) -> Head | None:
    """The register, linearizably; none when the store is empty."""
    found = await store.read(HEAD)
    return decode_head(found.items[0].value) if found.items else None


async def read_host(store: Store, host: HostId) -> Host | None:
    """A host as of `head`; none when the pool does not have it."""
    items = (await store.read(object_key(Kind.HOST, host))).items
    found = decode_object(items[0].value) if items else None
    return found if isinstance(found, Host) else None


async def read_hosts(store: Store) -> list[Host]:
    """Every host as of `head`."""
    found = [decode_object(i.value) async for i in _items(store, object_key(Kind.HOST, ""))]
    return [host for host in found if isinstance(host, Host)]


async def read_pool(store: Store) -> Pool:
    """The pool object as of `head`; `StoreFailed` when there is none."""
    async for item in _items(store, object_key(Kind.POOL, "")):
        found = decode_object(item.value)
        if isinstance(found, Pool):
            return found
    raise StoreFailed("the store holds no pool")


async def read_log(store: Store, *, after: int, limit: int) -> list[tuple[Delta, bytes]]:
    """Up to `limit` deltas that follow revision `after`, as far as they are kept."""
    found = await store.read(log_key(after + 1), prefix_end(LOG), limit=limit)
    return [(decode_delta(item.value), item.value) for item in found.items]


async def _items(store: Store, prefix: bytes) -> AsyncIterator[Item]:
    start, more = prefix, True
    while more:
        page = await store.read(start, prefix_end(prefix), limit=PAGE)
        for item in page.items:
            yield item
        more = page.more
        if more:
            start = page.items[-1].key + b"\0"


async def load(store: Store) -> tuple[Head, State]:
    """The register and the state it stands for.

    Read page by page; begun again when a commit came in between. `StoreFailed` when the store
    holds no pool or not all of it.
    """
    while True:
        head = await read_head(store)
        if head is None:
            raise StoreFailed("the store holds no pool")
        objects: list[Object] = [decode_object(i.value) async for i in _items(store, OBJECTS)]
        requests: list[RequestRecord] = [
            from_proto(parse(chain_pb2.RequestRecord, i.value))
            async for i in _items(store, REQUESTS)
        ]
        last = CommitId(0, 0)
        if head.revision:
            newest = await read_log(store, after=head.revision - 1, limit=1)
            if not newest:
                raise StoreFailed(f"the delta of revision {head.revision} is missing")
            last = newest[0][0].commit
        if await read_head(store) == head:
            return head, snapshot(head.incarnation, last, objects, requests)
