"""Contexts: pools by names, kept to oneself, never two for one pool."""

import stat
from pathlib import Path

import pytest

from poolcli import contexts
from poolcli.contexts import Context, Contexts
from poolcli.failures import UsageError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "pool" / "config.toml"


def test_what_was_saved_is_loaded(file: Path) -> None:
    known = Contexts()
    known.put(Context("lab", ("10.0.0.1:7443", "10.0.0.2:7443"), "some-uuid"))
    known.put(Context('o\'dd "name"', ("unix:///run/x.sock",)))
    contexts.save(known)
    assert contexts.load() == known
    assert known.current == "lab"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]


def test_no_file_is_no_contexts(file: Path) -> None:
    assert contexts.load() == Contexts()
    assert not file.exists()


@pytest.mark.parametrize("text", ["]", "contexts = 1", "[contexts.a]\n", "[contexts]\na = 1"])
def test_a_broken_file_is_named(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(UsageError, match="cannot be read"):
        contexts.load()


def test_a_context_whose_pool_has_another_context_is_folded_into_it() -> None:
    known = Contexts()
    known.put(Context("ignite", ("10.0.0.2:7443",), "pool-of-ignite"))
    known.put(Context("lab", ("10.0.0.1:7443",), "pool-of-lab"))
    assert known.current == "ignite"
    assert known.saw("ignite", "pool-of-lab") == "lab"
    assert known == Contexts(
        "lab", {"lab": Context("lab", ("10.0.0.1:7443", "10.0.0.2:7443"), "pool-of-lab")}
    )


def test_a_context_whose_pool_has_none_keeps_its_name() -> None:
    known = Contexts()
    known.put(Context("ignite", ("10.0.0.2:7443",), "pool-of-ignite"))
    assert known.saw("ignite", "pool-of-lab") == "ignite"
    assert known.get("ignite").pool == "pool-of-lab"
