"""The write-ahead log of an etcd member: every entry of Raft's log that is on its disk, in order.

It is only read: whether the process runs or not, and without a word to the other members. What is
on one member's disk was not necessarily committed; whoever reads it has to know what to make of it.

The log is a sequence of files, each a sequence of frames: eight bytes that say how long the record
and its padding are, the record, the padding; eight bytes of zero where the file is not written yet.
So it has been since etcd 3.0.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
from google.protobuf.message import DecodeError

from poolmanager.etcd.v3 import wal_pb2 as pb

FOLDER = Path("member", "wal")
"""In the member's data directory."""
_LENGTH = struct.Struct("<Q")
_ENTRY, _CHECKSUM = 2, 4


@dataclass(frozen=True, slots=True)
class Log:
    """Entries of Raft's log that follow each other, in order."""

    entries: Sequence[pb.RaftEntry]
    whole: bool
    """Whether that is all that was written: no record behind them is torn or damaged."""

    @property
    def from_the_beginning(self) -> bool:
        """Whether nothing was before them.

        etcd keeps its newest files only; a member that was far behind, or is new, has been sent
        what came before as a whole.
        """
        return not self.entries or self.entries[0].index == 1


def has_log(data: Path) -> bool:
    """Whether there is one in a data directory, or it cannot be told."""
    try:
        with os.scandir(data / FOLDER) as entries:
            return any(entry.name.endswith(".wal") for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def logs(data: Path) -> Iterator[Log]:
    """What the newest file of a data directory holds, then the two newest together, and so on.

    So whoever looks for something recent reads one file. `OSError` when a file cannot be read.
    """
    entries: Sequence[pb.RaftEntry] = ()
    whole = True
    for path in sorted((data / FOLDER).glob("*.wal"), reverse=True):
        earlier, undamaged = _read(path.read_bytes())
        # What was written behind damage does not follow what was written before it.
        entries, skipped = _consecutive((*earlier, *entries) if undamaged else earlier)
        whole = whole and undamaged
        yield Log(entries, whole)
        if skipped:
            return


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


def _consecutive(entries: Iterable[pb.RaftEntry]) -> tuple[list[pb.RaftEntry], bool]:
    """The newest that follow each other, and whether others came before with some left out.

    Without those in whose place another leader has put others.
    """
    kept: list[pb.RaftEntry] = []
    skipped = False
    for entry in entries:
        while kept and kept[-1].index >= entry.index:
            kept.pop()
        if kept and kept[-1].index + 1 < entry.index:
            # The leader has sent a snapshot, which is not in the log.
            kept.clear()
            skipped = True
        kept.append(entry)
    return kept, skipped
