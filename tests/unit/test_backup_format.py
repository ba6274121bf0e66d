"""The file of a backup: what went in comes out, and anything else is refused with the reason."""

import gzip
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings

from poolcore.errors import PoolError, Reason
from poolcore.replica import Change, State, apply, dump
from poolcore.wire.backup import (
    DIGEST_BYTES,
    HEADER_LIMIT_BYTES,
    MAGIC,
    decode_backup,
    decode_header,
    encode_backup,
)
from poolcore.wire.chain import snapshot_frames
from poolcore.wire.codec import MalformedMessage
from poolmanager.v1 import chain_pb2
from support.chain_samples import FOUNDED, INCARNATION, POOL, commits, crowded, following

MADE = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)
SMALL = crowded(16, 3)


def backup(state: State) -> bytes:
    return encode_backup(snapshot_frames(state), made=MADE, fresh=True)


def refused(data: bytes) -> PoolError:
    with pytest.raises(PoolError) as caught:
        decode_backup(data, name="pool.backup")
    return caught.value


def with_header(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A backup whose header is another, and whose digest is right."""
    line, _, rest = data.removeprefix(MAGIC).partition(b"\n")
    header = json.loads(line)
    change(header)
    content = MAGIC + json.dumps(header).encode() + b"\n" + rest[:-DIGEST_BYTES]
    return content + hashlib.sha256(content).digest()


@settings(max_examples=30)  # Objects of every kind take long to draw.
@given(commits)
def test_what_went_in_comes_out(content: list[tuple[tuple[Change, ...], bool, bool]]) -> None:
    state = FOUNDED
    for changes, asked, new_term in content:
        state = apply(state, following(state, changes, asked=asked, new_term=new_term))
    found = decode_backup(backup(state), name="pool.backup")
    assert dump(found.state) == dump(state)
    assert found.header.objects == len(state)


def test_the_first_lines_say_what_it_is() -> None:
    header = decode_header(backup(SMALL)[:HEADER_LIMIT_BYTES], name="pool.backup")
    assert (header.pool, header.pool_name) == (POOL, "production")
    assert (header.incarnation, header.last.revision, header.made) == (INCARNATION, 16, MADE)
    assert header.fresh
    line = backup(SMALL).split(b"\n")[1]
    assert json.loads(line)["pool"] == {"uuid": POOL, "name_label": "production"}


def test_several_frames_are_one_message_that_protoc_can_read() -> None:
    state = crowded(1, 6_000)
    frames = list(snapshot_frames(state))
    assert len(frames) > 1
    data = backup(state)
    begin = data.index(b"\n", len(MAGIC)) + 1
    message = chain_pb2.SnapshotFrame.FromString(gzip.decompress(data[begin:-DIGEST_BYTES]))
    assert len(message.objects) == len(state)
    assert message.digest == frames[-1].digest
    assert dump(decode_backup(data, name="pool.backup").state) == dump(state)


# -- damage ---------------------------------------------------------------------------------------


def test_a_file_of_which_any_byte_has_changed_is_refused() -> None:
    data = backup(SMALL)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        assert refused(bytes(changed)).reason is Reason.BACKUP_DAMAGED, position


def test_a_file_that_ends_too_early_is_refused_and_told_so() -> None:
    data = backup(SMALL)
    for size in range(len(data)):
        assert refused(data[:size]).reason is Reason.BACKUP_DAMAGED, size
    assert "its end is missing, 1 bytes" in refused(data[:-1]).message
    assert "its end is missing" in refused(b"").message


def test_a_file_that_goes_on_is_refused() -> None:
    assert refused(backup(SMALL) + b"\n").reason is Reason.BACKUP_DAMAGED


@pytest.mark.parametrize("data", [b"{}\n", b"SQLite format 3\0", b"\x1f\x8b" + bytes(100)])
def test_another_file_is_told_to_be_none(data: bytes) -> None:
    assert "it does not begin like one" in refused(data).message


@pytest.mark.parametrize("field", ["pool", "incarnation", "revision", "made", "schema_version"])
def test_a_header_without_a_field_is_refused(field: str) -> None:
    def without(header: dict[str, Any]) -> None:
        del header[field]

    assert refused(with_header(backup(SMALL), without)).reason is Reason.BACKUP_DAMAGED


def test_a_header_of_another_content_is_refused() -> None:
    def later(header: dict[str, Any]) -> None:
        header["revision"] += 1

    assert "not what its header says" in refused(with_header(backup(SMALL), later)).message


def test_a_snapshot_without_its_last_frame_is_refused() -> None:
    first = next(snapshot_frames(crowded(1, 6_000)))
    data = encode_backup([first], made=MADE, fresh=True)
    assert refused(data).reason is Reason.BACKUP_DAMAGED


def test_a_snapshot_without_a_pool_makes_no_backup() -> None:
    with pytest.raises(MalformedMessage):
        encode_backup([chain_pb2.SnapshotFrame()], made=MADE, fresh=True)


# -- newer releases -------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "what"), [("format", "format"), ("schema_version", "schema")])
def test_a_newer_one_is_refused_with_the_release_that_wrote_it(field: str, what: str) -> None:
    def newer(header: dict[str, Any]) -> None:
        header[field] = 99
        header["product_version"] = "9.1.0"

    error = refused(with_header(backup(SMALL), newer))
    assert error.reason is Reason.BACKUP_TOO_NEW
    assert f"9.1.0: its {what} is 99" in error.message


def test_a_damaged_one_is_not_taken_for_a_newer_one() -> None:
    data = backup(SMALL)
    assert refused(data.replace(b'"format": 1', b'"format": 2')).reason is Reason.BACKUP_DAMAGED
