"""Request ids: what was executed is known again, what may be forgotten is refused."""

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.requests import RequestRecord, RequestWindow, base_revision, request_id

LENGTH = 10


def window(revisions: range) -> RequestWindow:
    found = RequestWindow()
    for revision in revisions:
        record = RequestRecord(request_id(revision - 1, f"nonce{revision:04}"), b"hash", revision)
        found = found.advanced(revision, LENGTH, record)
    return found


def outcome(id_: str, payload: bytes = b"hash") -> RequestRecord | None:
    return window(range(1, 31)).first_outcome(id_, payload, last_revision=30, length=LENGTH)


def refused(id_: str, payload: bytes = b"hash") -> Reason:
    with pytest.raises(PoolError) as refusal:
        outcome(id_, payload)
    return refusal.value.reason


def test_what_was_executed_within_the_window_is_known_again() -> None:
    for revision in range(21, 31):
        record = outcome(request_id(revision - 1, f"nonce{revision:04}"))
        assert record is not None
        assert record.revision == revision


def test_a_new_id_may_be_executed() -> None:
    assert outcome(request_id(30, "somethingnew")) is None
    assert outcome(request_id(21, "somethingnew")) is None


def test_an_id_that_may_have_been_forgotten_is_refused() -> None:
    assert refused(request_id(20, "somethingnew")) is Reason.REQUEST_TOO_OLD
    assert refused(request_id(4, "nonce0005")) is Reason.REQUEST_TOO_OLD


def test_another_content_under_the_same_id_is_refused() -> None:
    assert refused(request_id(29, "nonce0030"), b"other") is Reason.REQUEST_ID_REUSED


def test_an_id_from_the_future_is_refused() -> None:
    assert refused(request_id(31, "somethingnew")) is Reason.INVALID_VALUE


@pytest.mark.parametrize(
    "id_",
    ["", "1", "-nonce0001", "1-short", "1-" + "n" * 65, "-1-nonce0001", "1-no nce01", "x-nonce0001",
     "1-nonce0001\n", "9" * 19 + "-nonce0001", "\u0661-nonce0001"],
)  # fmt: skip
def test_an_id_of_another_form_is_refused(id_: str) -> None:
    with pytest.raises(PoolError) as refusal:
        base_revision(id_)
    assert refusal.value.reason is Reason.INVALID_VALUE
