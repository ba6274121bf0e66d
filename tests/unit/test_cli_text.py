"""Text that is safe to show, and commands that are not there."""

import json
import unicodedata

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from poolcli.foreign import suggestion
from poolcli.text import duration, safe, size, to_json, to_yaml, wrapped

KNOWN = ["add-host", "eject-host", "events", "host", "set", "sr", "status", "task", "vm", "wait"]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text())
def test_safe_text_is_one_line_without_controls(text: str) -> None:
    shown = safe(text)
    assert all(unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)
    if shown == text:
        assert "\n" not in text


@given(values)
def test_json_and_yaml_are_safe_and_say_the_same(value: object) -> None:
    for text in (to_json(value), to_json(value, indent=None), to_yaml(value)):
        assert all(c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"} for c in text)
    assert json.loads(to_json(value)) == value
    assert yaml.safe_load(to_yaml(value)) == value


def test_json_lines_are_lines() -> None:
    assert "\n" not in to_json({"a": "x\ny", "b": [1, 2]}, indent=None)


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (512 * 2**20, "512 MiB"),
        (2**60, "1024 PiB"),
    ],
)
def test_sizes(amount: int, shown: str) -> None:
    assert size(amount) == shown


def test_durations() -> None:
    assert [duration(s) for s in (0.25, 12.4, 300, 8000)] == ["0.2 s", "12 s", "5 min", "2 h"]


def test_long_words_are_never_broken() -> None:
    word = "virsh-" + "x" * 100
    assert word in wrapped(f"some text and {word} more").splitlines()


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("statsu", "Did you mean `pool status`?"),
        ("pool-join", "Did you mean `pool add-host`?"),
        ("pool-eject", "Did you mean `pool eject-host`?"),
        ("vm-list", "Did you mean `pool vm list`?"),
        ("sr-param-set", "Did you mean `pool sr set`?"),
        ("host-param-list", "Did you mean `pool host show`?"),
        ("nodes", "Did you mean `pool host list`?"),
        ("pvecm nodes", "Did you mean `pool host list`?"),
        ("pvecm add 10.0.0.1", "Did you mean `pool add-host`?"),
        ("pvecm status", "Did you mean `pool status`?"),
        ("xe vm-list", "Did you mean `pool vm list`?"),
        ("host-disable", "Did you mean `pool host maintenance HOST`?"),
        ("xe host-evacuate", "Did you mean `pool host maintenance HOST`?"),
        ("host-enable", "Did you mean `pool host maintenance HOST --off`?"),
        ("maintenance", "Did you mean `pool host maintenance HOST`?"),
        ("pvecm create x", "There is nothing to create"),
        (
            "xe pool-emergency-transition-to-master",
            "Did you mean `pool emergency-transition-to-master`?",
        ),
        (
            "pool-emergency-reset-master master-address=x",
            "Did you mean `pool emergency-reset-master ADDRESS`?",
        ),
        ("xe pool-recover-slaves", "Did you mean `pool recover-members`?"),
        ("pvecm expected 1", "`pool emergency-transition-to-master`, run at the host that is"),
        ("zzzz", "`pool --help` lists what there is."),
    ],
)
def test_what_people_type_leads_to_what_there_is(typed: str, hint: str) -> None:
    message, found = suggestion([], typed.split(), KNOWN)
    assert typed.split(maxsplit=1)[0] in message
    assert hint in found


def test_within_a_noun_its_commands_are_suggested() -> None:
    known = ["list", "set", "show"]
    assert suggestion(["vm"], ["lst"], known)[1] == "Did you mean `pool vm list`?"
    assert suggestion(["vm"], ["param-get"], known)[1] == "Did you mean `pool vm show`?"
    assert suggestion(["host"], ["disable", "x"], [*known, "maintenance"])[1] == (
        "Did you mean `pool host maintenance HOST`?"
    )
    assert suggestion(["vm"], ["disable"], known)[1] == "`pool vm --help` lists what there is."
    assert suggestion(["vm"], ["migrate"], known)[1] == "`pool vm --help` lists what there is."
