"""Runs every test that asks for `engine` or `store` once per engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contract.engines import (
    Engine,
    EtcdEngine,
    MemoryEngine,
    SqliteEngine,
    SqliteEngineOfTwoProcesses,
)
from contract.remote_store import store_process
from poolmaster.store.contract import Store
from support.certificates import Authority
from support.etcd import EtcdCluster

ETCD = {"etcd": (1, False), "etcd-tls": (1, True), "etcd-3": (3, False), "etcd-3-tls": (3, True)}
"""How many members, and whether they want certificates."""


@pytest.fixture(scope="session")
def second_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a process where further handles on an SQLite file are opened."""
    with store_process(tmp_path_factory.mktemp("second") / "socket") as socket:
        yield socket


@pytest.fixture(scope="session")
def etcd_clusters(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], EtcdCluster]]:
    """Gives a running cluster of each kind, started when it is first asked for."""
    running: dict[str, EtcdCluster] = {}
    with ExitStack() as stack:

        def cluster(kind: str) -> EtcdCluster:
            if kind not in running:
                size, tls = ETCD[kind]
                folder = tmp_path_factory.mktemp(kind)
                authority = Authority(folder) if tls else None
                started = EtcdCluster(folder, size=size, authority=authority)
                stack.callback(started.kill)
                asyncio.run(started.start())
                running[kind] = started
            return running[kind]

        yield cluster


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        names: list[Any] = ["memory", "sqlite"]
        if "other" in metafunc.fixturenames:  # with one handle it is the same as one process
            names.append("sqlite-two-processes")
        names += [pytest.param(kind, marks=pytest.mark.etcd) for kind in ETCD]
        metafunc.parametrize("engine_name", names)


@pytest.fixture
def made_engine(engine_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Engine:
    match engine_name:
        case "memory":
            return MemoryEngine()
        case "sqlite":
            return SqliteEngine(tmp_path)
        case "sqlite-two-processes":
            return SqliteEngineOfTwoProcesses(tmp_path, request.getfixturevalue("second_process"))
        case kind:
            return EtcdEngine(request.getfixturevalue("etcd_clusters")(kind))


@pytest.fixture
async def engine(made_engine: Engine) -> AsyncIterator[Engine]:
    yield made_engine
    await made_engine.close()


@pytest.fixture
async def store(engine: Engine) -> Store:
    """The first handle on a fresh store."""
    return await engine.open()


@pytest.fixture
async def other(store: Store, engine: Engine) -> Store:
    """A second handle on the same store."""
    return await engine.open()
