"""A state of the pool as something to walk through: views, and tables of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from immutables import Map

from poolclient._errors import Ambiguous, NotFound
from poolcore.errors import Reason
from poolcore.model import Kind, Object
from poolcore.replica import State

T = TypeVar("T", bound=Object)
V = TypeVar("V", bound="View[Any]")


class Picture:
    """A state with the reverse of its references, each worked out when first asked for."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._reverse: dict[tuple[Kind, str], Mapping[str, list[str]]] = {}

    def referring(self, kind: Kind, field: str, uuid: str) -> list[str]:
        """The uuids, sorted, of the objects of `kind` whose `field` is `uuid`."""
        index = self._reverse.get((kind, field))
        if index is None:
            found: dict[str, list[str]] = defaultdict(list)
            table: Mapping[str, Any] = self.state.tables.get(kind, Map())
            for obj in table.values():
                if (target := getattr(obj, field)) is not None:
                    found[target].append(obj.uuid)
            index = {target: sorted(uuids) for target, uuids in found.items()}
            self._reverse[kind, field] = index
        return index.get(uuid, [])


class View(Generic[T]):
    """An object with links; `object` is the plain, fully typed object."""

    __slots__ = ("_picture", "object")
    KIND: ClassVar[Kind]

    def __init__(self, picture: Picture, obj: T) -> None:
        self._picture = picture
        self.object = obj

    @property
    def uuid(self) -> str:
        """The object's uuid."""
        return self.object.uuid

    def __getattr__(self, name: str) -> Any:
        if name in View.__slots__:  # not set yet: copied or unpickled
            raise AttributeError(name)
        return getattr(self.object, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and self.object == other.object

    def __hash__(self) -> int:
        return hash((type(self), self.object.uuid))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self.object, 'name_label', self.object.uuid)}>"

    def _to(self, view: type[V], uuid: str | None) -> V | None:
        obj = None if uuid is None else self._picture.state.tables.get(view.KIND, Map()).get(uuid)
        return None if obj is None else view(self._picture, obj)

    def _from(self, view: type[V], field: str) -> list[V]:
        table = self._picture.state.tables.get(view.KIND, Map())
        uuids = self._picture.referring(view.KIND, field, self.object.uuid)
        return [view(self._picture, table[uuid]) for uuid in uuids]


class ViewTable(Generic[V]):
    """The views of one kind at one revision.

    `table[ref]` takes a uuid, or a name that only one of them has; iterating gives the views in
    order of their uuids.
    """

    def __init__(self, picture: Picture, view: type[V]) -> None:
        self._picture = picture
        self._view = view
        self._table: Mapping[str, Any] = picture.state.tables.get(view.KIND, Map())

    def _named(self, ref: object) -> list[Any]:
        if isinstance(ref, str) and ref in self._table:
            return [self._table[ref]]
        return [o for o in self._table.values() if getattr(o, "name_label", None) == ref]

    def __getitem__(self, ref: str) -> V:
        """The view of that uuid or name; `NotFound`, `Ambiguous`."""
        view = self.get(ref)
        if view is None:
            raise NotFound(Reason.OBJECT_NOT_FOUND, kind=self._view.KIND, name=ref)
        return view

    def get(self, ref: str) -> V | None:
        """The view of that uuid or name, or none; `Ambiguous` when several have the name."""
        found = self._named(ref)
        if len(found) > 1:
            uuids = ", ".join(sorted(o.uuid for o in found))
            kind = self._view.KIND
            raise Ambiguous(Reason.OBJECT_AMBIGUOUS, kind=kind, name=ref, candidates=uuids)
        return self._view(self._picture, found[0]) if found else None

    def __contains__(self, ref: object) -> bool:
        return bool(self._named(ref))

    def __iter__(self) -> Iterator[V]:
        return (self._view(self._picture, self._table[uuid]) for uuid in sorted(self._table))

    def __len__(self) -> int:
        return len(self._table)
