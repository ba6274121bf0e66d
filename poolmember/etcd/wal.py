"""The write-ahead log of an etcd member: every entry of Raft's log that is on its disk, in order.

It is only read: whether the process runs or not, and without a word to the other members. What is
on one member's disk was not necessarily committed; whoever reads it has to know what to make of it.

The log is a sequence of files, each a sequence of frames: eight bytes that say how long the record
and its padding are, the record, the padding; eight bytes of zero where the file is not written yet.
So it has been since etcd 3.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
from google.protobuf.message import DecodeError

from poolmanager.etcd.v3 import wal_pb2 as pb

FOLDER = Path("member", "wal")
"""In the member's data directory."""
_LENGTH = struct.Struct("<Q")
_ENTRY, _CHECKSUM = 2, 4
_FIRST = "0000000000000000-"


@dataclass(frozen=True, slots=True)
class Log:
    """Entries of Raft's log that follow each other, in order."""

    entries: Sequence[pb.RaftEntry]
    whole: bool
    """Whether that is all that was written: no record behind them is torn or damaged."""
    from_the_beginning: bool = False
    """Whether nothing was written before them; etcd keeps its newest files only."""


def logs(data: Path) -> Iterator[Log]:
    """What the newest file of a data directory holds, then the two newest together, and so on.

    So whoever looks for something recent reads one file. `OSError` when a file cannot be read.
    """
    entries: Sequence[pb.RaftEntry] = ()
    whole = True
    for path in sorted((data / FOLDER).glob("*.wal"), reverse=True):
        earlier, undamaged = _read(path.read_bytes())
        # What was written behind damage does not follow what was written before it.
        entries = _superseded((*earlier, *entries) if undamaged else earlier)
        whole = whole and undamaged
        yield Log(entries, whole, path.name.startswith(_FIRST))


def _read(file: bytes) -> tuple[list[pb.RaftEntry], bool]:
    """The entries of a file, and whether it is undamaged."""
    entries: list[pb.RaftEntry] = []
    at, checksum = 0, 0
    while at + _LENGTH.size <= len(file):
        (field,) = _LENGTH.unpack_from(file, at)
        if not field:
            break
        # The highest bit says that there is padding, the three next ones above 56 how much.
        length, padding = field & (1 << 56) - 1, field >> 56 & 7 if field >> 63 else 0
        at += _LENGTH.size
        try:
            record = pb.WalRecord.FromString(file[at : at + length])
            if record.type == _CHECKSUM:
                checksum = record.crc
            else:
                checksum = google_crc32c.extend(checksum, record.data)
            if at + length > len(file) or record.crc != checksum:
                return entries, False
            if record.type == _ENTRY:
                entries.append(pb.RaftEntry.FromString(record.data))
        except DecodeError:
            return entries, False
        at += length + padding
    return entries, True


def _superseded(entries: Sequence[pb.RaftEntry]) -> list[pb.RaftEntry]:
    """Without those in whose place another leader has put others."""
    kept: list[pb.RaftEntry] = []
    for entry in entries:
        while kept and kept[-1].index >= entry.index:
            kept.pop()
        kept.append(entry)
    return kept
