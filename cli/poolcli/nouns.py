"""What the commands of all nouns have in common: list, show and set.

Without postponed evaluation of annotations: those of the commands hold what is made per noun.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.app import Group, command, new_app
from poolcli.changes import FORMS, as_json, number, parse_changes
from poolcli.completion import completer
from poolcli.failures import UsageError
from poolcli.output import Format, data, fields, flattened, note, table, write
from poolcli.session import Session
from poolcli.text import safe

if TYPE_CHECKING:
    from poolclient import Collection, PoolClient

RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        metavar="ID",
        help="Repeat a change whose outcome is unknown; it is never made twice.",
    ),
]

COLLECTIONS: Mapping[str, str] = {
    "host": "hosts",
    "host_metrics": "host_metrics",
    "sr": "srs",
    "pbd": "pbds",
    "vdi": "vdis",
    "network": "networks",
    "pif": "pifs",
    "bond": "bonds",
    "vlan": "vlans",
    "tunnel": "tunnels",
    "vm": "vms",
    "vbd": "vbds",
    "vif": "vifs",
    "task": "tasks",
    "message": "messages",
    "lock": "locks",
    "master_record": "master_records",
}
"""Which collection of the client has the objects of each noun."""


def collection(pool: "PoolClient", noun: str) -> "Collection[Any]":
    """The client's collection of a noun."""
    found: Collection[Any] = getattr(pool, COLLECTIONS[noun])
    return found


class Others:
    """Objects of other kinds that a table's rows refer to."""

    def __init__(self, objects: Mapping[str, Sequence[Any]]) -> None:
        self._objects = objects
        self._by_uuid = {obj.uuid: obj for found in objects.values() for obj in found}

    def all(self, noun: str) -> Sequence[Any]:
        """Every object of a kind that was asked for."""
        return self._objects[noun]

    def name(self, uuid: str | None) -> str:
        """The name or device of an object, its short uuid if it is not known, or nothing."""
        if uuid is None:
            return ""
        obj = self._by_uuid.get(uuid)
        for field in ("name_label", "device"):
            if hasattr(obj, field):
                return str(getattr(obj, field))
        return short(uuid)

    def get(self, uuid: str | None) -> Any:
        """The object of a uuid, or none."""
        return self._by_uuid.get(uuid or "")


Cell = Callable[[Any, Others], str]


@dataclass(frozen=True, slots=True)
class Noun:
    """How objects of a kind are shown."""

    name: str
    help: str
    columns: Mapping[str, Cell]
    needs: tuple[str, ...] = ()
    """The kinds that the columns look up names in."""
    writable: bool = False
    numbers: tuple[str, ...] = ()
    """Fields of its own that can be set, and are numbers."""
    order: Callable[[Any, Others], Any] | None = None
    """What the rows of a table are sorted by; the name if nothing else is said."""


def short(uuid: str) -> str:
    """The first eight digits: unique in most pools, and accepted as a prefix."""
    return uuid[:8]


def label(obj: Any) -> str:
    """What a person calls an object: its name, or its uuid if it has none."""
    return str(getattr(obj, "name_label", obj.uuid))


def show_object(obj: Any, shown_as: Format) -> None:
    """One object, whole."""
    if shown_as is Format.NAME:
        write(safe(label(obj)))
    elif shown_as is Format.TABLE:
        fields(flattened(as_json(obj)))
    else:
        data(as_json(obj), shown_as)


def noun_app(noun: Noun, *, group: type[Group] = Group) -> typer.Typer:
    """The commands `list`, `show` and, where there is something to set, `set` of a noun."""
    app = new_app(noun.help, group=group)
    _add_list(app, noun)
    _add_show(app, noun)
    if noun.writable:
        _add_set(app, noun)
    return app


def _add_list(app: typer.Typer, noun: Noun) -> None:
    async def list_(session: Session) -> None:
        session.refuse_format(Format.SCRIPT)
        async with session.pool() as pool:
            needs = noun.needs if session.format is Format.TABLE else ()
            objects, *found = await asyncio.gather(
                collection(pool, noun.name).list(),
                *(collection(pool, need).list() for need in needs),
            )
        if session.format is Format.NAME:
            for obj in objects:
                write(safe(label(obj)))
        elif session.format is Format.TABLE:
            others = Others({noun.name: objects, **dict(zip(needs, found, strict=True))})
            order = noun.order or (lambda obj, _: label(obj))
            ordered = sorted(objects, key=lambda obj: (order(obj, others), obj.uuid))
            table(
                [*noun.columns, "UUID"],
                [
                    [*(cell(obj, others) for cell in noun.columns.values()), short(obj.uuid)]
                    for obj in ordered
                ],
            )
        else:
            data([as_json(obj) for obj in objects], session.format)

    list_.__doc__ = "List them all."
    command(app, "list")(list_)


def _add_show(app: typer.Typer, noun: Noun) -> None:
    metavar = noun.name.upper()

    async def show(
        session: Session,
        name: Annotated[
            str,
            typer.Argument(
                metavar=metavar,
                help="Its name, uuid, or a unique prefix of either.",
                autocompletion=completer(noun.name),
            ),
        ],
    ) -> None:
        """Show one with all its fields."""
        session.refuse_format(Format.SCRIPT)
        async with session.pool() as pool:
            show_object(await collection(pool, noun.name).get(name), session.format)

    command(app, "show")(show)


def _add_set(app: typer.Typer, noun: Noun) -> None:
    metavar = noun.name.upper()
    forms = FORMS + "".join(f", {field}=NUMBER" for field in noun.numbers) + "."

    async def set_(
        session: Session,
        name: Annotated[
            str,
            typer.Argument(
                metavar=metavar,
                help="Its name, uuid, or a unique prefix of either.",
                autocompletion=completer(noun.name),
            ),
        ],
        changes: Annotated[list[str], typer.Argument(metavar="FIELD=VALUE", help=forms)],
        request_id: RequestId = None,
    ) -> None:
        """Change its name, description, tags, other_config or settings."""
        session.refuse_format(Format.SCRIPT)
        parsed, settings = parse_changes(changes, noun.numbers)
        own = {field: number(field, text) for field, text in settings.items()}
        if not parsed and not own:
            raise UsageError("Nothing to set.", forms)
        async with session.pool() as pool:
            objects: Any = collection(pool, noun.name)
            done = await objects.set(name, request_id=request_id, **own, **parsed)
        tell_change(session, noun.name, done)

    command(app, "set")(set_)


def tell_change(session: Session, kind: str, done: Any) -> None:
    """A change that was committed: the object, or for people a note."""
    if session.format is Format.TABLE:
        note(f"Changed {kind} {label(done.object)} (revision {done.revision}).")
    else:
        show_object(done.object, session.format)
