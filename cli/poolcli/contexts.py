"""Contexts: pools by names of one's own, in `~/.config/pool/config.toml`.

A context is addresses and, once one of them has answered, the uuid of the pool. Two contexts never
stand for one pool: when a context's host turns out to be of another context's pool, because it
joined it, the one is folded into the other.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poolcli.failures import UsageError


def path() -> Path:
    """Where the contexts are kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "pool" / "config.toml"


@dataclass(frozen=True, slots=True)
class Context:
    """A pool by a name: where it answers, and its uuid once that is known."""

    name: str
    addresses: tuple[str, ...]
    pool: str = ""


@dataclass(slots=True)
class Contexts:
    """All contexts, and which one is used when nothing else is said."""

    current: str = ""
    by_name: dict[str, Context] = field(default_factory=dict)

    def get(self, name: str) -> Context:
        """The context of that name; `UsageError` when there is none."""
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise UsageError(f"There is no context {name!r}.", f"Contexts: {known}.")
        return self.by_name[name]

    def put(self, context: Context) -> None:
        """Add or replace a context; the first one becomes the current one."""
        self.by_name[context.name] = context
        self.current = self.current or context.name

    def remove(self, name: str) -> None:
        """Forget a context."""
        del self.by_name[self.get(name).name]
        if self.current == name:
            self.current = next(iter(sorted(self.by_name)), "") if len(self.by_name) == 1 else ""

    def saw(self, name: str, pool: str) -> str:
        """Note that a context's host answered for `pool`; gives the context that now stands for it.

        That is another one when this one was folded into it.
        """
        context = self.by_name[name]
        other = next((c for c in self.by_name.values() if c.pool == pool and c.name != name), None)
        if other is None:
            self.by_name[name] = Context(name, context.addresses, pool)
            return name
        addresses = dict.fromkeys((*other.addresses, *context.addresses))
        self.by_name[other.name] = Context(other.name, tuple(addresses), pool)
        del self.by_name[name]
        if self.current == name:
            self.current = other.name
        return other.name

    def at(self, address: str) -> Context | None:
        """The context that has an address."""
        return next((c for c in self.by_name.values() if address in c.addresses), None)


def load() -> Contexts:
    """The contexts on disk; none if there is no file."""
    file = path()
    try:
        found = tomllib.loads(file.read_text())
        return Contexts(
            current=str(found.get("current", "")),
            by_name={name: _context(name, entry) for name, entry in _entries(found).items()},
        )
    except FileNotFoundError:
        return Contexts()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file} cannot be read: {error}.", "Correct it, or remove it and add contexts again."
        ) from None


def _entries(found: Mapping[str, Any]) -> Mapping[str, Any]:
    entries: Mapping[str, Any] = found.get("contexts", {})
    return entries


def _context(name: str, entry: Mapping[str, Any]) -> Context:
    return Context(name, tuple(map(str, entry["addresses"])), str(entry.get("pool", "")))


def save(contexts: Contexts) -> None:
    """Replace the file, in one step and readable to its owner only."""
    import tempfile

    import tomlkit

    document = tomlkit.document()
    document.add("current", tomlkit.item(contexts.current))
    table = tomlkit.table()
    for context in sorted(contexts.by_name.values(), key=lambda c: c.name):
        entry = tomlkit.table()
        entry.add("addresses", tomlkit.item(list(context.addresses)))
        if context.pool:
            entry.add("pool", tomlkit.item(context.pool))
        table.add(context.name, entry)
    document.add("contexts", table)
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # mkstemp makes files of mode 0600.
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".config-")
        with os.fdopen(handle, "w") as stream:
            stream.write(tomlkit.dumps(document))
        Path(temporary).replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error}.") from None
