"""Which object a person means: its uuid, its name, or a unique prefix of either."""

from __future__ import annotations

from typing import TypeVar

from poolcore.errors import PoolError, Reason
from poolcore.model import Object
from poolcore.replica import State

T = TypeVar("T", bound=Object)

_SHOWN_CANDIDATES = 5


def select(state: State, cls: type[T], name: str) -> T:
    """The object of class `cls` that `name` names.

    A uuid wins over a name, a whole name over a prefix. `OBJECT_NOT_FOUND` when nothing fits,
    `OBJECT_AMBIGUOUS` when several objects fit equally well.
    """
    if not name:
        raise PoolError(Reason.INVALID_VALUE, field=str(cls.KIND), problem="is missing")
    exact = state.get(cls, name)
    if exact is not None:
        return exact
    objects = list(state.all(cls))
    fitting = [o for o in objects if _label(o) == name] or [
        o for o in objects if o.uuid.startswith(name) or _label(o).startswith(name)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise PoolError(Reason.OBJECT_NOT_FOUND, kind=str(cls.KIND), name=name)
    shown = sorted(f"{_label(o)} ({o.uuid})" if _label(o) else o.uuid for o in fitting)
    more = len(shown) - _SHOWN_CANDIDATES
    raise PoolError(
        Reason.OBJECT_AMBIGUOUS,
        kind=str(cls.KIND),
        name=name,
        candidates=", ".join(shown[:_SHOWN_CANDIDATES]) + (f" and {more} more" if more > 0 else ""),
    )


def _label(obj: Object) -> str:
    # Interfaces and the like have no name, only a uuid.
    return getattr(obj, "name_label", "")
