"""Write-ahead logs of etcd, made by hand: what a member's disk may look like."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import google_crc32c

from poolmanager.etcd.v3 import rpc_pb2 as rpc
from poolmanager.etcd.v3 import wal_pb2 as pb
from poolmaster.store.contract import Compare, Write
from poolmember.etcd.wal import FOLDER

PREFIX = b"poolmaster/p/i/"


def entry(
    index: int, writes: Iterable[Write], compares: Iterable[Compare] = (), *, term: int = 1
) -> pb.RaftEntry:
    """An entry that is a transaction, as the store sends it."""
    transaction = rpc.TxnRequest()
    for compare in compares:
        target = transaction.compare.add(key=PREFIX + compare.key)
        if compare.value is None:
            target.target, target.create_revision = rpc.Compare.CREATE, 0
        else:
            target.target, target.value = rpc.Compare.VALUE, compare.value
    for write in writes:
        key = PREFIX + write.key
        if write.value is None:
            transaction.success.add().request_delete_range.key = key
        else:
            put = rpc.PutRequest(key=key, value=write.value)
            transaction.success.add().request_put.CopyFrom(put)
    request = pb.RaftRequest(txn=transaction)
    return pb.RaftEntry(term=term, index=index, data=request.SerializeToString())


def file_of(entries: Sequence[pb.RaftEntry], *, checksum: int = 0) -> bytes:
    """A file with these entries, the space behind it reserved, as etcd does."""
    frames = [_frame(4, b"", checksum)]
    for item in entries:
        data = item.SerializeToString()
        checksum = google_crc32c.extend(checksum, data)
        frames.append(_frame(2, data, checksum))
    return b"".join(frames) + bytes(4096)


def write_files(folder: Path, *files: bytes) -> None:
    """Put files, the oldest first, where a member has its log."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(files):
        (folder / FOLDER / f"{number:016x}-{number * 100:016x}.wal").write_bytes(content)


def _frame(kind: int, data: bytes, checksum: int) -> bytes:
    record = pb.WalRecord(type=kind, crc=checksum, data=data).SerializeToString()
    padding = -len(record) % 8
    field = len(record) | (0x80 | padding) << 56 if padding else len(record)
    return struct.pack("<Q", field) + record + bytes(padding)
