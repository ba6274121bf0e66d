"""Conversion between the model's dataclasses and the messages of `poolmanager.v1`.

A dataclass and its message have the same name and the same field names, so one converter per class
is derived from the dataclass's annotations, once. `from_proto(to_proto(x)) == x` for every value of
the model (a property test per class). What comes from elsewhere may lack fields: those take the
dataclass's default, or `MalformedMessage` is raised.

Serialized objects are deterministic (map keys sorted) so that equal objects of one release are
equal bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp
from immutables import Map

from poolcore import difference, facts, model, outlook, replica, requests, restoration
from poolmanager.v1 import agent_service_pb2, chain_pb2, pool_service_pb2, resources_pb2

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]


class MalformedMessage(ValueError):
    """A message that no release of this API sends."""


_SOURCES = (
    (resources_pb2, model),
    (chain_pb2, replica),
    (chain_pb2, requests),
    (agent_service_pb2, facts),
    (pool_service_pb2, outlook),
    (pool_service_pb2, difference),
    (pool_service_pb2, restoration),
)


@cache
def _message_class(cls: Any) -> Any:
    name: str = cls.__name__
    for messages, dataclasses_ in _SOURCES:
        if getattr(dataclasses_, name, None) is cls and hasattr(messages, name):
            return getattr(messages, name)
    raise TypeError(f"{name} has no message")


@cache
def _dataclass_of(message: Any) -> Any:
    name = message.__name__
    for messages, dataclasses_ in _SOURCES:
        if getattr(messages, name, None) is message and hasattr(dataclasses_, name):
            return getattr(dataclasses_, name)
    raise TypeError(f"{name} has no dataclass")


_ONEOF = {cls: str(kind) for kind, cls in model.CLASSES.items()}


def _identity(value: Any) -> Any:
    return value


def _encode_time(value: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp


def _decode_time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


@cache
def _enum_tables(enum: type[StrEnum]) -> tuple[Mapping[Any, int], Mapping[int, Any]]:
    proto: Any = getattr(resources_pb2, enum.__name__)
    words = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.__name__).lstrip("_")
    forward = {member: proto.Value(f"{words}_{member.name}") for member in enum}
    return forward, {number: member for member, number in forward.items()}


def enum_to_proto(member: StrEnum) -> Any:
    """The number that stands for a member of one of the model's enumerations."""
    return _enum_tables(type(member))[0][member]


def enum_from_proto(enum: type[E], number: int) -> E:
    """The member a number stands for; `MalformedMessage` for one that stands for none."""
    try:
        member: E = _enum_tables(enum)[1][number]
    except KeyError:
        raise MalformedMessage(f"{enum.__name__} has no value {number}") from None
    return member


def _value_codec(hint: Any) -> tuple[Encode, Decode]:
    """How one value of a field travels."""
    if hint is model.Object:
        return object_to_proto, object_from_proto
    if hint is datetime:
        return _encode_time, _decode_time
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum_tables(hint)[0].__getitem__, functools.partial(enum_from_proto, hint)
    if dataclasses.is_dataclass(hint):
        return to_proto, from_proto
    return _identity, _identity


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    name: str
    encode: Encode
    """From the attribute's value to the keyword argument of the message; none leaves it out."""
    decode: Callable[[Any], Any]
    """From the message to the attribute's value."""


def _field(cls: type, field: dataclasses.Field[Any], hint: Any) -> _Field:
    name = field.name
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        inner = next(a for a in args if a is not type(None))
        encode, decode = _value_codec(inner)
        return _Field(
            name,
            lambda v: None if v is None else encode(v),
            lambda m: decode(getattr(m, name)) if m.HasField(name) else None,
        )
    if origin is tuple:
        encode, decode = _value_codec(args[0])
        return _Field(
            name,
            lambda v: [encode(x) for x in v] if v else None,
            lambda m: tuple(map(decode, getattr(m, name))),
        )
    if origin is frozenset:
        return _Field(
            name,
            lambda v: sorted(v) if v else None,
            lambda m: frozenset(getattr(m, name)) or model.NO_NAMES,
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _Field(
            name,
            lambda v: dict(v) if v else None,
            lambda m: Map(dict(getattr(m, name))) if getattr(m, name) else model.EMPTY_MAP,
        )
    encode, decode = _value_codec(hint)

    def required(message: Any) -> Any:
        if message.HasField(name):
            return decode(getattr(message, name))
        if field.default is not dataclasses.MISSING:
            return field.default
        raise MalformedMessage(f"{cls.__name__} without {name}")

    return _Field(name, encode, required)


@cache
def _fields(cls: Any) -> tuple[_Field, ...]:
    hints = {n: getattr(h, "__supertype__", h) for n, h in typing.get_type_hints(cls).items()}
    return tuple(_field(cls, f, hints[f.name]) for f in dataclasses.fields(cls))


def to_proto(value: Any) -> Any:
    """The message of a dataclass that has one.

    Those of `model`, `facts`, `outlook`, `difference` and `restoration`, and `Incarnation`,
    `CommitId`, `Head`.
    """
    cls: Any = type(value)
    arguments = {}
    for field in _fields(cls):
        encoded = field.encode(getattr(value, field.name))
        if encoded is not None:
            arguments[field.name] = encoded
    return _message_class(cls)(**arguments)


def from_proto(message: Any) -> Any:
    """The dataclass of a message that `to_proto` makes; `MalformedMessage` for any other."""
    message_class: Any = type(message)
    cls: Any = _dataclass_of(message_class)
    return cls(**{field.name: field.decode(message) for field in _fields(cls)})


def object_to_proto(obj: model.Object) -> resources_pb2.Object:
    """An object of any class in its envelope."""
    envelope: dict[str, Any] = {_ONEOF[type(obj)]: to_proto(obj)}
    return resources_pb2.Object(**envelope)


def object_from_proto(envelope: resources_pb2.Object) -> model.Object:
    """The object in an envelope; `MalformedMessage` when it is empty."""
    which = envelope.WhichOneof("object")
    if which is None:
        raise MalformedMessage("an Object without an object")
    obj: model.Object = from_proto(getattr(envelope, which))
    return obj


def encode_object(obj: model.Object) -> bytes:
    """An object as it is stored: a serialized `Object` message, deterministic."""
    return serialize(object_to_proto(obj))


def decode_object(data: bytes) -> model.Object:
    """The object of `encode_object`'s bytes; `MalformedMessage` for anything else."""
    return object_from_proto(parse(resources_pb2.Object, data))


def serialize(message: ProtoMessage) -> bytes:
    """Deterministic bytes of a message."""
    return message.SerializeToString(deterministic=True)


def parse(cls: type[T], data: bytes) -> T:
    """The message in `data`; `MalformedMessage` for what is none."""
    try:
        message: T = cls.FromString(data)  # type: ignore[attr-defined]  # every message has it
    except DecodeError as error:
        raise MalformedMessage(f"no {cls.__name__}: {error}") from error
    return message
