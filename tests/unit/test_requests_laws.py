"""The law of request ids: no id is ever executed twice, and none that is new and young is refused.

A pool executes what its window lets it execute. Beside it a list remembers everything for ever.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poolcore.errors import PoolError, Reason
from poolcore.requests import RequestRecord, RequestWindow, request_id

LENGTH = 4

asks = st.lists(
    st.tuples(
        st.integers(-6, 1),  # which revision the id names, counted from the last one
        st.integers(0, 3),  # which of a few nonces
        st.booleans(),  # with which of two payloads
        st.booleans(),  # whether somebody without an id comes in between
    ),
    max_size=40,
)


@given(asks)
def test_an_id_is_executed_once_or_refused_and_never_forgotten_silently(
    asks: list[tuple[int, int, bool, bool]],
) -> None:
    window, last = RequestWindow(), 0
    executed: dict[str, RequestRecord] = {}
    for back, nonce, other, between in asks:
        base = max(last + back, 0)
        id_, payload = request_id(base, f"nonce{nonce:04}"), b"other" if other else b"one"
        try:
            found = window.first_outcome(id_, payload, last_revision=last, length=LENGTH)
        except PoolError as error:
            _check_refusal(error.reason, executed.get(id_), base, last, payload)
            continue
        if found is not None:
            assert found == executed[id_]
            assert found.payload_hash == payload
            continue
        assert id_ not in executed, "it was forgotten, and would be executed again"
        last += 1
        executed[id_] = RequestRecord(id_, payload, last)
        window = window.advanced(last, LENGTH, executed[id_])
        if between:
            last += 1
            window = window.advanced(last, LENGTH, None)
    kept = {id_: record for id_, record in executed.items() if record.revision > last - LENGTH}
    assert dict(window.by_id) == kept
    assert {r: record.id for record in kept.values() for r in [record.revision]} == dict(
        window.by_revision
    )


def _check_refusal(
    reason: Reason, first: RequestRecord | None, base: int, last: int, payload: bytes
) -> None:
    match reason:
        case Reason.REQUEST_ID_REUSED:
            assert first is not None
            assert first.payload_hash != payload
        case Reason.REQUEST_TOO_OLD:
            assert base <= last - LENGTH, "a young id is not refused as old"
        case Reason.INVALID_VALUE:
            assert base > last, "only an id from the future is refused as such"
        case _:
            raise AssertionError(reason)
