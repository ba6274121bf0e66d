"""The values of the daemon's configuration: what each may be, and how it is written.

A parser takes a `Value`, text from a flag or the environment or whatever TOML has, and returns
what the daemon works with, or raises `Problem`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from poolcore.errors import PoolError, Reason
from poolmaster.store import urls as store_urls
from poolmaster.store.urls import StoreUrl

DEFAULT_PORT = 7443
DEFAULT_LIBVIRT_URI = "qemu:///system"
NAME_BYTES = 255
HISTORY_REVISIONS = range(10, 1_000_001)
HOOK_SECONDS = (0.1, 3600.0)
"""The shortest and the longest deadline of a hook."""


class LogFormat(StrEnum):
    """How an event is written to stderr: one line each, for people or for machines."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """From which severity on events are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Host and port; `str()` gives `host:port`, an IPv6 address in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> str:
        """The host as an address, an IPv6 one in brackets; a name that stands for none as it is."""
        address = _ip_address(self.host)
        if address is None:
            try:
                address = _ip_address(socket.gethostbyname(self.host))
            except OSError:
                address = None
        if address is None:
            return self.host
        return f"[{address}]" if address.version == 6 else str(address)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        address = _ip_address(self.host)
        return address is not None and address.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all of the machine's addresses, and so for none to connect to."""
        address = _ip_address(self.host)
        return address is not None and address.is_unspecified


@dataclass(frozen=True, slots=True)
class LibvirtDriver:
    """The hypervisor that libvirt offers at `uri`."""

    uri: str = DEFAULT_LIBVIRT_URI


@dataclass(frozen=True, slots=True)
class SimDriver:
    """A simulated hypervisor, as `file` describes it; without one, a fresh host."""

    file: Path | None = None


@dataclass(frozen=True, slots=True)
class NoDriver:
    """No hypervisor: enough for a witness."""


DriverSpec = LibvirtDriver | SimDriver | NoDriver


class Problem(Exception):
    """What is wrong with a value; becomes `INVALID_CONFIGURATION` together with its key."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value as it was given: where, and the folder that relative paths in it start from."""

    raw: object
    place: str
    folder: Path

    def refuse(self, problem: str) -> PoolError:
        """The error that says so, with the place."""
        return PoolError(Reason.INVALID_CONFIGURATION, key=self.place, problem=problem)


def parse_text(value: Value) -> str:
    """Any text."""
    if not isinstance(value.raw, str):
        raise Problem(f"must be a text in quotes, not {value.raw!r}")
    return value.raw


def parse_name(value: Value) -> str:
    """A host's name: not empty, no control characters, at most 255 bytes of UTF-8."""
    name = parse_text(value)
    if not name.strip():
        raise Problem("must not be empty")
    # Cs: bytes of the command line that are not UTF-8; Zl, Zp: separators that break lines.
    bad = next((c for c in name if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}), None)
    if bad is not None:
        raise Problem(f"must not contain control characters such as U+{ord(bad):04X}")
    if (size := len(name.encode())) > NAME_BYTES:
        raise Problem(f"must not be longer than {NAME_BYTES} bytes, has {size}")
    return name


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise Problem(f"has {text!r} where a port from 1 to 65535 is needed")
    return int(text)


def parse_endpoint(text: str, *, default_port: int) -> Endpoint:
    """`HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or _ip_address(host) is None:
            raise Problem(f"must look like [::1]:{DEFAULT_PORT}, not {text!r}")
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        raise Problem(f"needs brackets around an IPv6 address: [::1]:{DEFAULT_PORT}")
    else:
        host, colon, number = text.partition(":")
        port = number if colon else None
    if not host or any(c.isspace() or not c.isprintable() or c in "/[]" for c in host):
        raise Problem(f"must look like 192.0.2.11:{DEFAULT_PORT}, not {text!r}")
    return Endpoint(host, default_port if port is None else _port(port))


def _listen(value: Value) -> Endpoint:
    endpoint = parse_endpoint(parse_text(value), default_port=DEFAULT_PORT)
    # A name could resolve to several addresses, and to others tomorrow.
    if endpoint.host != "localhost" and _ip_address(endpoint.host) is None:
        raise Problem(f"must be an IP address of this machine, not the name {endpoint.host!r}")
    return endpoint


def _absolute(text: str, folder: Path) -> Path:
    if not text or "\0" in text:
        raise Problem("must be a path")
    return Path(os.path.normpath(folder / Path(text)))


def _path(value: Value) -> Path:
    return _absolute(parse_text(value), value.folder)


def _driver(value: Value) -> DriverSpec:
    text = parse_text(value)
    kind, colon, rest = text.partition(":")
    if colon and not rest:
        raise Problem(f"has nothing behind the colon of {text!r}")
    if kind == "libvirt":
        return LibvirtDriver(rest) if rest else LibvirtDriver()
    if kind == "sim":
        if not rest:
            return SimDriver()
        file = _absolute(rest, value.folder)
        if not file.is_file():
            raise Problem(f"there is no file {file}")
        return SimDriver(file)
    if text == "none":
        return NoDriver()
    raise Problem(f"must be libvirt, libvirt:URI, sim, sim:FILE or none, not {text!r}")


def _store(value: Value) -> StoreUrl:
    try:
        return store_urls.parse(parse_text(value))
    except ValueError as error:
        raise Problem(str(error)) from error


_YES_NO = {"1": True, "true": True, "yes": True, "on": True} | {
    "": False, "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip


def _switch(value: Value) -> bool:
    if isinstance(value.raw, bool):
        return value.raw
    if isinstance(value.raw, str) and value.raw.lower() in _YES_NO:
        return _YES_NO[value.raw.lower()]
    raise Problem(f"must be true or false, not {value.raw!r}")


def _log_format(value: Value) -> LogFormat:
    try:
        return LogFormat(parse_text(value).lower())
    except ValueError:
        raise Problem(f"must be {' or '.join(LogFormat)}, not {value.raw!r}") from None


def _log_level(value: Value) -> LogLevel:
    try:
        return LogLevel(parse_text(value).lower())
    except ValueError:
        raise Problem(f"must be one of {', '.join(LogLevel)}, not {value.raw!r}") from None


def _names(value: Value) -> tuple[str, ...]:
    raw = value.raw
    items = [s.strip() for s in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise Problem('must be a list of names, such as ["default", "images"]')
    return tuple(dict.fromkeys(item for item in items if item))


def _history_revisions(value: Value) -> int:
    raw = value.raw
    number = int(raw) if isinstance(raw, str) and raw.isascii() and raw.isdigit() else raw
    if isinstance(number, bool) or not isinstance(number, int) or number not in HISTORY_REVISIONS:
        low, high = HISTORY_REVISIONS[0], HISTORY_REVISIONS[-1]
        raise Problem(f"must be a number from {low} to {high}, not {raw!r}")
    return number


def _hook_seconds(value: Value) -> float:
    raw, (low, high) = value.raw, HOOK_SECONDS
    try:
        seconds = float(raw) if isinstance(raw, str | int | float) else 0.0
    except ValueError:
        seconds = 0.0
    # Not a number compares with nothing, and so is refused as well.
    if isinstance(raw, bool) or not low <= seconds <= high:
        raise Problem(f"must be a number of seconds from {low:g} to {high:g}, not {raw!r}")
    return seconds


PARSERS: Mapping[str, Callable[[Value], Any]] = {
    "name": parse_name,
    "listen": _listen,
    "advertise": parse_text,  # its default port is the one of `listen`
    "state_dir": _path,
    "driver": _driver,
    "store": _store,
    "witness": _switch,
    "voter": _switch,
    "insecure": _switch,
    "log_format": _log_format,
    "log_level": _log_level,
    "builtin_srs": _names,
    "history_revisions": _history_revisions,
    "hooks_dir": _path,
    "hook_seconds": _hook_seconds,
}

KEYS = tuple(PARSERS)
"""Every key, by its name in the file."""
