"""Contexts in use: which pool a command is about, and what becomes of them when hosts join."""

from pathlib import Path

import pytest

from poolcli import contexts
from poolcli.contexts import Context, Contexts
from poolcore.model import PoolId
from support.cli import Pool
from support.fakes import served
from support.small_pool import POOL


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "pool" / "config.toml"


def test_commands_follow_the_chosen_context(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served() as (host, _):
        pool = Pool("", capsys)
        assert pool("context", "add", "gone", "127.0.0.1:1").code == 0
        assert pool("context", "add", "lab", host.address, "127.0.0.1:2").code == 0
        assert pool("status").code == 6
        assert pool("context", "use", "lab").code == 0
        assert pool("status", "-o", "json").json["pool"]["uuid"] == POOL
        listed = pool("context", "list", "-o", "json").json
        assert listed == [
            {"name": "gone", "addresses": ["127.0.0.1:1"], "pool": None, "current": False},
            {
                "name": "lab",
                "addresses": [host.address, "127.0.0.1:2"],
                "pool": POOL,
                "current": True,
            },
        ]
        assert pool("context", "list", "-o", "name").out == "gone\nlab\n"
        assert "*" in pool("context", "list").out
        assert pool("context", "remove", "gone").code == 0
        assert pool("context", "remove", "gone").code == 2
        assert pool("context", "use", "gone").code == 2
        assert pool("context", "add", "bad name", host.address).code == 2
        assert pool("context", "add", "bad", "a b").code == 2


def test_a_context_of_a_host_that_joined_is_folded_at_its_next_use(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served() as (lab, _), served() as (ignite, _):
        own = ignite.pool.state.pool
        ignite.pool.remove(own)
        ignite.pool.put(own, uuid=PoolId("other"))
        pool = Pool("", capsys)
        assert pool("context", "add", "ignite", ignite.address).code == 0
        assert pool("show", "-o", "json").json["uuid"] == "other"
        assert pool("context", "add", "lab", lab.address, "--use").code == 0
        assert pool("show", "-o", "json").json["uuid"] == POOL
        assert len(contexts.load().by_name) == 2
        ignite.pool.state = lab.pool.state  # it has joined
        assert pool("context", "use", "ignite").code == 0
        outcome = pool("show", "-o", "json")
        assert outcome.json["uuid"] == POOL
        assert "folded into" in outcome.err
        assert contexts.load() == Contexts(
            "lab", {"lab": Context("lab", (lab.address, ignite.address), POOL)}
        )


def test_one_host_that_left_does_not_take_a_context_along(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served() as (phantom, _), served() as (ignite, _):
        pool = Pool("", capsys)
        assert pool("context", "add", "lab", phantom.address, ignite.address).code == 0
        assert pool("show", "-o", "json").json["uuid"] == POOL
        own = ignite.pool.state.pool
        ignite.pool.remove(own)
        ignite.pool.put(own, uuid=PoolId("ejected"))
        for _ in range(3):
            assert pool("show", "-o", "json").json["uuid"] == POOL
        phantom.pool.remove(own)
        phantom.pool.put(own, uuid=PoolId("another"))
        outcome = pool("show", "-o", "json")
        assert (outcome.code, outcome.error["code"]) == (5, "HOST_OF_ANOTHER_POOL")
        assert contexts.load().get("lab").pool == POOL


def test_a_host_is_added_by_the_name_of_its_context(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served() as (host, _):
        pool = Pool(host.address, capsys)
        assert pool("context", "add", "specter", "10.0.0.3").code == 0
        task = pool("add-host", "specter", "--no-wait", "-o", "json").json
        assert task["params"]["endpoint"] == "10.0.0.3:7443"
        assert pool("context", "add", "here", "unix:///run/poolmember/api.sock").code == 0
        assert pool("add-host", "here").code == 2
