"""Hypothesis strategies for the values of the model."""

import dataclasses
import typing
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st
from immutables import Map

from poolcore import model
from poolcore.facts import HostFacts, Inventory
from poolcore.model import Incarnation
from poolcore.replica import CommitId, Delta, Head, Put, Remove
from poolcore.requests import RequestRecord

texts = st.text(st.characters(codec="utf-8"), max_size=12)
numbers = st.integers(0, 2**32 - 1)
times = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(  # noqa: DTZ001
    lambda t: t.replace(tzinfo=UTC)
)
maps = st.dictionaries(texts, texts, max_size=3).map(Map)

st.register_type_strategy(str, texts)
st.register_type_strategy(int, numbers)
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(datetime, times)


def instances(cls: Any) -> st.SearchStrategy[Any]:
    """Values of a dataclass of the model, every field drawn by its annotation."""
    hints = typing.get_type_hints(cls)
    fields: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(cls)):
        hint = hints[name]
        if hint is model.Object:
            fields[name] = objects
        elif hint == tuple[model.Object, ...]:
            fields[name] = st.lists(objects, max_size=3).map(tuple)
        elif "Mapping" in str(hint):
            fields[name] = maps
        elif "frozenset" in str(hint):
            fields[name] = st.frozensets(texts, max_size=3)
        else:
            fields[name] = st.from_type(hint)
    return st.builds(cls, **fields)


for _cls in (model.TaskError, model.Task, model.Cpu):
    st.register_type_strategy(_cls, instances(_cls))

objects = st.one_of([instances(cls) for cls in model.CLASSES.values()])
requests = st.builds(RequestRecord, texts, st.binary(max_size=16), numbers)
commits = st.builds(CommitId, numbers, numbers)
incarnations = st.builds(Incarnation, numbers, texts, numbers)
heads = st.builds(Head, incarnations, numbers, numbers, texts)
changes = st.one_of(st.builds(Put, objects), st.builds(Remove, st.sampled_from(model.Kind), texts))
deltas = st.builds(
    Delta, texts, commits, commits, st.lists(changes, max_size=4).map(tuple), st.none() | requests
)
st.register_type_strategy(Inventory, st.deferred(lambda: instances(Inventory)))
facts = st.deferred(lambda: instances(HostFacts))
