"""Runs every test that asks for `engine` or `store` once per engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from contract.engines import Engine, MemoryEngine, SqliteEngine, SqliteEngineOfTwoProcesses
from contract.remote_store import store_process
from poolmaster.store.contract import Store


@pytest.fixture(scope="session")
def second_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a process where further handles on an SQLite file are opened."""
    with store_process(tmp_path_factory.mktemp("second") / "socket") as socket:
        yield socket


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        names = ["memory", "sqlite"]
        if "other" in metafunc.fixturenames:  # with one handle it is the same as one process
            names.append("sqlite-two-processes")
        metafunc.parametrize("engine_name", names)


@pytest.fixture
async def engine(
    engine_name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Engine]:
    engine: Engine
    match engine_name:
        case "memory":
            engine = MemoryEngine()
        case "sqlite":
            engine = SqliteEngine(tmp_path)
        case _:
            engine = SqliteEngineOfTwoProcesses(tmp_path, request.getfixturevalue("second_process"))
    yield engine
    await engine.close()


@pytest.fixture
async def store(engine: Engine) -> Store:
    """The first handle on a fresh store."""
    return await engine.open()


@pytest.fixture
async def other(store: Store, engine: Engine) -> Store:
    """A second handle on the same store."""
    return await engine.open()
