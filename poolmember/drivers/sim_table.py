"""Reading a TOML table strictly: every value checked, every key accounted for."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import uuid as uuidlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from poolcore.errors import PoolError, Reason

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

MIB = 1024**2

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", re.IGNORECASE)


def invalid(key: str, problem: str) -> PoolError:
    """What is wrong in the configuration, and where."""
    return PoolError(Reason.INVALID_CONFIGURATION, key=key, problem=problem)


def either(value: T | None, default: T) -> T:
    """What the file says, or else the default."""
    return default if value is None else value


class StrictTable:
    """A table of the file whose keys are taken out one by one; what is left is not known.

    Each reading method returns `None` for a key that is not there and raises
    `PoolError(INVALID_CONFIGURATION)`, naming the place in the file, for a value of another sort.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        source: str,
        *,
        path: str = "",
        top: StrictTable | None = None,
    ) -> None:
        self._data = dict(data)
        self._source = source
        self._path = path
        self._top = top or self
        self._asked: set[str] = set()

    def refuse(self, key: str, problem: str) -> NoReturn:
        """Say what is wrong with a key of this table."""
        raise invalid(f"{self._source}: {self._place(key)}", problem)

    def required(self, key: str, value: T | None) -> T:
        """The value that was read of `key`, which must be there."""
        return self.refuse(key, "is missing") if value is None else value

    def finish(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key in self._data:
            # In TOML everything behind a [table] belongs to it, which is easily forgotten.
            if self is not self._top and key in self._top._asked:
                self.refuse(key, "belongs to the top of the file, before the first [table]")
            close = difflib.get_close_matches(key, self._asked, n=1)
            self.refuse(key, "is no known key" + (f"; did you mean “{close[0]}”?" if close else ""))

    def table(self, key: str) -> StrictTable:
        """The table `[key]`; an empty one if it is not there."""
        value = self._take(key)
        if not isinstance(value, dict | None):
            self.refuse(key, f"must be a table, [{key}]")
        return StrictTable(value or {}, self._source, path=self._place(key), top=self._top)

    def tables(self, key: str) -> list[StrictTable]:
        """Every table `[[key]]`."""
        value = either(self._take(key), [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.refuse(key, f"must be one table or more, [[{key}]] each")
        place = self._place(key)
        return [
            StrictTable(item, self._source, path=f"{place}[{position}]", top=self._top)
            for position, item in enumerate(value)
        ]

    def text(self, key: str) -> str | None:
        """A text that is not empty."""
        value = self._take(key)
        if value is not None and (not isinstance(value, str) or not value):
            self.refuse(key, "must be a text that is not empty")
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of texts that are not empty."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            self.refuse(key, "must be a list of texts that are not empty")
        return tuple(value)

    def integer(self, key: str, *, low: int, high: int | None = None) -> int | None:
        """A whole number from `low` to `high`."""
        value = self._take(key)
        if value is None:
            return None
        limit = 2**63 - 1 if high is None else high
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= limit:
            bounds = f"of {low} or more" if high is None else f"from {low} to {high}"
            self.refuse(key, f"must be a whole number {bounds}")
        return value

    def mib(self, key: str) -> int | None:
        """A size that the file gives in MiB, in bytes."""
        value = self.integer(key, low=0, high=2**40)
        return None if value is None else value * MIB

    def number(self, key: str, *, low: float | None = None) -> float | None:
        """A finite number of `low` or more."""
        value = self._take(key)
        if value is None:
            return None
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            self.refuse(key, "must be a number")
        if low is not None and value < low:
            self.refuse(key, f"must be a number of {low:g} or more")
        return float(value)

    def flag(self, key: str) -> bool | None:
        """`true` or `false`."""
        value = self._take(key)
        if not isinstance(value, bool | None):
            self.refuse(key, "must be true or false")
        return value

    def choice(self, key: str, choices: Iterable[E]) -> E | None:
        """One of some values of an enumeration."""
        value, known = self.text(key), {str(choice): choice for choice in choices}
        if value is not None and value not in known:
            self.refuse(key, f"must be one of {', '.join(known)}")
        return None if value is None else known[value]

    def uuid(self) -> str | None:
        """The key `uuid`, in its usual form."""
        value = self.text("uuid")
        try:
            return None if value is None else str(uuidlib.UUID(value))
        except ValueError:
            self.refuse("uuid", "must be a uuid")

    def mac(self) -> str | None:
        """The key `mac`."""
        value = self.text("mac")
        if value is not None and not _MAC.fullmatch(value):
            self.refuse("mac", "must be six pairs of hexadecimal digits with colons")
        return value

    def addresses(self, key: str) -> tuple[str, ...] | None:
        """Addresses in CIDR form, IPv4 or IPv6."""
        values = self.texts(key)
        for value in values or ():
            try:
                ipaddress.ip_interface(value)
            except ValueError:
                self.refuse(key, f"“{value}” is no address with prefix, such as 192.0.2.1/24")
        return values

    def _take(self, key: str) -> Any:
        self._asked.add(key)
        return self._data.pop(key, None)

    def _place(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key
