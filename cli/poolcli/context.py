"""Pools by names of one's own."""

from __future__ import annotations

from typing import Annotated

import typer

from poolcli import contexts
from poolcli.app import command, new_app
from poolcli.failures import UsageError
from poolcli.output import Format, data, note, table, write
from poolcli.session import Session
from poolcli.text import safe

app = new_app("Pools by names of one's own, in ~/.config/pool/config.toml.")


def _complete(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    try:
        return [name for name in contexts.load().by_name if name.startswith(incomplete)]
    except UsageError:
        return []


Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=_complete)]


@command(app, "add")
async def add(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    addresses: Annotated[
        list[str],
        typer.Argument(
            metavar="ADDRESS",
            help="HOST, HOST:PORT or unix:///PATH; several hosts "
            "of one pool stand in for each other.",
        ),
    ],
    use: Annotated[bool, typer.Option("--use", help="Choose it, too.")] = False,
) -> None:
    """Give a pool a name; the first one is chosen at once."""
    from poolclient import normal_address

    if not name or safe(name) != name or any(c.isspace() for c in name):
        raise UsageError(f"{name!r} is no name for a context.", "Use letters and digits.")
    known = contexts.load()
    normal = tuple(dict.fromkeys(normal_address(a) for part in addresses for a in part.split(",")))
    known.put(contexts.Context(name, normal))
    if use:
        known.current = name
    contexts.save(known)
    chosen = ", and chosen" if known.current == name else ""
    note(f"Context {name} is {', '.join(normal)}{chosen}.")


@command(app, "use")
async def use(session: Session, name: Name) -> None:
    """Choose the pool that commands are about when nothing else is said."""
    known = contexts.load()
    known.current = known.get(name).name
    contexts.save(known)
    note(f"Context {name} is chosen.")


@command(app, "list")
async def list_(session: Session) -> None:
    """List the contexts."""
    session.refuse_format(Format.SCRIPT)
    known = contexts.load()
    found = sorted(known.by_name.values(), key=lambda c: c.name)
    if session.format is Format.NAME:
        for context in found:
            write(safe(context.name))
    elif session.format is Format.TABLE:
        table(
            ["", "NAME", "ADDRESSES", "POOL"],
            [
                ["*" if c.name == known.current else "", c.name, ", ".join(c.addresses), c.pool[:8]]
                for c in found
            ],
        )
    else:
        value = [
            {
                "name": c.name,
                "addresses": list(c.addresses),
                "pool": c.pool or None,
                "current": c.name == known.current,
            }
            for c in found
        ]
        data(value, session.format)


@command(app, "remove")
async def remove(session: Session, name: Name) -> None:
    """Forget a context; the pool is not touched."""
    known = contexts.load()
    known.remove(name)
    contexts.save(known)
    note(f"Context {name} is removed.")
