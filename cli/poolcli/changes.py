"""`FIELD=VALUE` on the command line, and objects as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from poolcli.failures import UsageError

if TYPE_CHECKING:
    from poolclient import Changes
    from poolcore.model import Object

NUMBER_DIGITS = 9
TEXT_FIELDS = ("name_label", "name_description")
FORMS = (
    "Fields: name_label=TEXT, name_description=TEXT, tags+=TAG, tags-=TAG, other_config.KEY=VALUE "
    "(an empty value removes the key)"
)


def parse_changes(
    arguments: Sequence[str], extra: Sequence[str] = ()
) -> tuple[Changes, dict[str, str]]:
    """The metadata changes in `arguments`, and the values of the `extra` fields among them."""
    changes: Changes = {}
    other: dict[str, str] = {}
    add, remove = list[str](), list[str]()
    config: dict[str, str | None] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise UsageError(f"{argument!r} is not FIELD=VALUE.", _forms(extra))
        if name == "name_label":
            changes["name_label"] = value
        elif name == "name_description":
            changes["name_description"] = value
        elif name == "tags+":
            add.append(value)
        elif name == "tags-":
            remove.append(value)
        elif name.startswith("other_config.") and name != "other_config.":
            config[name.removeprefix("other_config.")] = value or None
        elif name in extra:
            other[name] = value
        else:
            raise UsageError(f"{name!r} is no field that can be set.", _forms(extra))
    if add:
        changes["add_tags"] = add
    if remove:
        changes["remove_tags"] = remove
    if config:
        changes["other_config"] = config
    return changes, other


def number(name: str, text: str) -> int:
    """A field's value that is a number; `UsageError` for any other."""
    if not (text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS):
        raise UsageError(f"{name} is a number, not {text!r}.")
    return int(text)


def _forms(extra: Sequence[str]) -> str:
    return FORMS + "".join(f", {name}=VALUE" for name in extra) + "."


def as_json(obj: Object) -> dict[str, Any]:
    """An object as JSON has it: all its fields, named after XAPI's."""
    from poolcore.model import Host
    from poolcore.replica import plain

    value: dict[str, Any] = plain(obj)
    if isinstance(obj, Host):
        value["address"] = obj.address
    return value


def field_of(value: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted field; `UsageError` for a field that there is not."""
    found: Any = value
    for number, part in enumerate(name.split(".")):
        if number and isinstance(found, Mapping) and part not in found:
            return None  # an entry of a map that is not there (yet)
        if not isinstance(found, Mapping) or part not in found:
            known = ", ".join(value)
            raise UsageError(f"There is no field {name!r}.", f"Fields: {known}.")
        found = found[part]
    return found
