"""A backup of the pool's metadata: everything at one revision, in one file that stands by itself.

    poolmanager metadata backup           a line that says what it is
    {"format": 1, "pool": …}              a line of JSON: whose, of when, and how long the body is
    gzip                                  the body: a serialized `poolmanager.v1.SnapshotFrame`
    32 bytes                              SHA-256 of everything before them

The frames of a snapshot, one behind the other, are such a message: that is how protobuf merges. So
the body can be read years later with nothing but gzip, protoc and the published proto files
(docs/backup.md); field numbers are never used again. The first two lines can be read with `head`.

Line, header and digest stay as they are in every format, so that any release can tell a damaged
file from one that is newer than itself. Nothing here reads or writes files.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from poolcore import PRODUCT_VERSION, SCHEMA_VERSION
from poolcore.errors import PoolError, Reason
from poolcore.model import Incarnation, Pool, PoolId
from poolcore.replica import CommitId, State, plain
from poolcore.wire.chain import SnapshotAssembler
from poolcore.wire.codec import MalformedMessage, from_proto, parse, serialize
from poolmanager.v1 import chain_pb2

MAGIC = b"poolmanager metadata backup\n"
FORMAT = 1
DIGEST_BYTES = 32
HEADER_LIMIT_BYTES = 64 * 1024
GZIP_FORMAT = 16 + zlib.MAX_WBITS
"""What zlib calls a stream with the header and trailer of gzip."""
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)
"""What is raised by a header that says something else than ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupHeader:
    """What the first lines of a backup say of it."""

    pool: PoolId
    pool_name: str
    incarnation: Incarnation
    last: CommitId
    """The last commit that is in it."""
    objects: int
    """How many there are."""
    made: datetime
    fresh: bool
    """Whether a master confirmed that it was the newest state when it was made."""
    product_version: str
    schema_version: int


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that is whole, and what is in it."""

    header: BackupHeader
    state: State
    data: bytes
    """The file's content."""


def encode_backup(
    frames: Iterable[chain_pb2.SnapshotFrame], *, made: datetime, fresh: bool
) -> bytes:
    """The content of a backup file that holds a complete snapshot; `made` is aware.

    `MalformedMessage` if it has no header, or no pool in its first frame.
    """
    packer = zlib.compressobj(wbits=GZIP_FORMAT)
    parts, about, objects = list[bytes](), dict[str, Any](), 0
    for frame in frames:
        objects += len(frame.objects)
        if frame.HasField("header"):
            about = _about(frame)
        parts.append(packer.compress(serialize(frame)))
    if not about:
        raise MalformedMessage("a snapshot without a header")
    parts.append(packer.flush())
    header = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "product_version": PRODUCT_VERSION,
        "made": plain(made.astimezone(UTC).replace(microsecond=0)),
        "fresh": fresh,
        **about,
        "objects": objects,
        "body_bytes": sum(map(len, parts)),
    }
    head = MAGIC + json.dumps(header, ensure_ascii=False).encode() + b"\n"
    digest = hashlib.sha256(head)
    for part in parts:
        digest.update(part)
    return b"".join((head, *parts, digest.digest()))


def _about(first: chain_pb2.SnapshotFrame) -> dict[str, Any]:
    pools = (o.pool for o in first.objects if o.WhichOneof("object") == Pool.KIND)
    pool = next(pools, None)
    if pool is None:
        raise MalformedMessage("a snapshot without a pool")
    return {
        "pool": {"uuid": pool.uuid, "name_label": pool.name_label},
        "incarnation": plain(from_proto(first.header.incarnation)),
        "term": first.header.last.term,
        "revision": first.header.last.revision,
    }


def decode_backup(data: bytes, *, name: str) -> Backup:
    """What is in a backup file's content; `name` is what errors call it.

    `BACKUP_DAMAGED` for what is no backup, or not whole; `BACKUP_TOO_NEW` for one that this release
    does not know how to read.
    """
    line, begin = _header_line(data, name)
    try:
        fields: Any = json.loads(line)
        end = begin + int(fields["body_bytes"])
    except _MALFORMED as error:
        raise _damaged(name, f"its header cannot be read ({error!r})") from error
    if len(data) < end + DIGEST_BYTES:
        missing = end + DIGEST_BYTES - len(data)
        raise _damaged(name, f"its end is missing, {missing} bytes")
    if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise _damaged(name, "its checksum is not that of its content")
    header = _header(fields, name)
    try:
        body = parse(chain_pb2.SnapshotFrame, gzip.decompress(data[begin:end]))
        state = SnapshotAssembler().add(body)
    except (OSError, EOFError, zlib.error, MalformedMessage) as error:
        raise _damaged(name, str(error)) from error
    told = (header.incarnation, header.last)
    if state is None or (state.incarnation, state.last) != told or not any(state.all(Pool)):
        raise _damaged(name, "its content is not what its header says")
    return Backup(header, state, data)


def decode_header(start: bytes, *, name: str) -> BackupHeader:
    """What the beginning of a backup says of it; whether the rest is whole is not looked at.

    `start`: at least `HEADER_LIMIT_BYTES` of the content, or all of it. Raises as `decode_backup`.
    """
    line, _ = _header_line(start, name)
    try:
        fields: Any = json.loads(line)
    except ValueError as error:
        raise _damaged(name, f"its header cannot be read ({error!r})") from error
    return _header(fields, name)


def _header_line(data: bytes, name: str) -> tuple[bytes, int]:
    """The line of JSON, and where the body begins."""
    if not data.startswith(MAGIC):
        cut = MAGIC.startswith(data)
        problem = "its end is missing, almost all of it" if cut else "it does not begin like one"
        raise _damaged(name, problem)
    end = data.find(b"\n", len(MAGIC), len(MAGIC) + HEADER_LIMIT_BYTES)
    if end < 0:
        raise _damaged(name, "its header has no end")
    return data[len(MAGIC) : end], end + 1


def _header(fields: Any, name: str) -> BackupHeader:
    try:
        for what, found, known in (
            ("format", int(fields["format"]), FORMAT),
            ("schema", int(fields["schema_version"]), SCHEMA_VERSION),
        ):
            if found > known:
                release = str(fields["product_version"])
                raise PoolError(
                    Reason.BACKUP_TOO_NEW,
                    name=name,
                    release=release,
                    what=what,
                    found=str(found),
                    known=str(known),
                )
        return BackupHeader(
            pool=PoolId(str(fields["pool"]["uuid"])),
            pool_name=str(fields["pool"]["name_label"]),
            incarnation=Incarnation(**fields["incarnation"]),
            last=CommitId(int(fields["term"]), int(fields["revision"])),
            objects=int(fields["objects"]),
            made=datetime.fromisoformat(fields["made"]),
            fresh=bool(fields["fresh"]),
            product_version=str(fields["product_version"]),
            schema_version=int(fields["schema_version"]),
        )
    except _MALFORMED as error:
        raise _damaged(name, f"its header cannot be read ({error!r})") from error


def _damaged(name: str, problem: str) -> PoolError:
    return PoolError(Reason.BACKUP_DAMAGED, name=name, problem=problem)
