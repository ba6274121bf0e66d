"""Whatever the model can say survives the wire unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolcore import model
from poolcore.facts import HostFacts
from poolcore.replica import Delta, Head
from poolcore.wire.chain import decode_delta, encode_delta
from poolcore.wire.codec import (
    MalformedMessage,
    decode_object,
    encode_object,
    from_proto,
    to_proto,
)
from poolmanager.v1 import resources_pb2
from support import strategies


@pytest.mark.parametrize("cls", model.CLASSES.values(), ids=lambda c: c.__name__)
def test_every_object_survives_the_round_trip(cls: type[model.Object]) -> None:
    @given(strategies.instances(cls))
    def round_trip(obj: model.Object) -> None:
        assert decode_object(encode_object(obj)) == obj

    round_trip()


@given(strategies.deltas)
def test_a_delta_survives_the_round_trip(delta: Delta) -> None:
    assert decode_delta(encode_delta(delta)) == delta


@given(strategies.heads)
def test_a_head_survives_the_round_trip(head: Head) -> None:
    assert from_proto(to_proto(head)) == head


@given(strategies.facts)
def test_the_facts_of_a_host_survive_the_round_trip(facts: HostFacts) -> None:
    assert from_proto(to_proto(facts)) == facts


@given(st.binary(max_size=64))
def test_bytes_that_are_no_object_are_refused_as_such(data: bytes) -> None:
    try:
        obj = decode_object(data)
    except MalformedMessage:
        return
    assert decode_object(encode_object(obj)) == obj


def test_a_message_without_a_required_field_is_refused_by_name() -> None:
    envelope = resources_pb2.Object(vbd=resources_pb2.VBD(uuid="u", vm="v"))
    with pytest.raises(MalformedMessage, match="VBD without device"):
        decode_object(envelope.SerializeToString())


def test_a_value_that_no_enumeration_has_is_refused() -> None:
    envelope = resources_pb2.Object(vm=resources_pb2.VM(uuid="u", name_label="n", power_state=99))  # type: ignore[arg-type]
    with pytest.raises(MalformedMessage, match="PowerState has no value 99"):
        decode_object(envelope.SerializeToString())
