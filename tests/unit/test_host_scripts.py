"""Keeping scripts informed: what is told of what is seen, and when."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poolcore.clock import SystemClock
from poolmember.host_scripts import LOOK_SECONDS, HostScripts
from poolmember.place import Place
from poolmember.pool_file import encode, replace_file
from support.hooks import ran, write_hook
from support.places import FOLLOWING, LEADING, SEARCHING


class Eyes:
    """Sees what it is told to see."""

    def __init__(self, seen: Place | None = None) -> None:
        self.seen = seen
        self.error: Exception | None = None

    def __call__(self) -> Place | None:
        if self.error is not None:
            raise self.error
        return self.seen


def scripts_of(eyes: Eyes, folder: Path) -> HostScripts:
    for name in ("became-master", "lost-master", "master-changed"):
        write_hook(folder / "hooks.d", name)
    return HostScripts(
        eyes,
        pool_file=folder / "pool.json",
        hooks_dir=folder / "hooks.d",
        hook_seconds=10,
        clock=SystemClock(),
        environ=os.environ,
    )


@asynccontextmanager
async def informed(scripts: HostScripts) -> AsyncIterator[None]:
    """While a daemon informs them; it ends at the end."""
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(scripts.run())
        yield
        scripts.finish()


def names(folder: Path) -> list[str]:
    return [line.split()[0] for line in ran(folder / "hooks.d")]


def said(folder: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((folder / "pool.json").read_text())
    return plain


async def test_every_event_is_told_however_fast_they_come(tmp_path: Path) -> None:
    eyes = Eyes()
    scripts = scripts_of(eyes, tmp_path)
    async with informed(scripts):
        for eyes.seen in (None, LEADING, LEADING, SEARCHING, FOLLOWING):
            scripts.look()
    assert names(tmp_path) == ["became-master", "lost-master", "master-changed"]
    assert said(tmp_path)["role"] == "stopped"
    assert scripts.last_failures == {}


async def test_what_nobody_says_is_seen_all_the_same(tmp_path: Path) -> None:
    eyes = Eyes(LEADING)
    scripts = scripts_of(eyes, tmp_path)
    async with informed(scripts):
        scripts.look()
        eyes.seen = replace(LEADING, pool_name="renamed", revision=99)
        # A file tells nobody that it has changed.
        while "became-master" not in names(tmp_path) or said(tmp_path)["pool"]["name"] != "renamed":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert said(tmp_path)["revision"] == LEADING.revision, "the role goes on"
    assert names(tmp_path) == ["became-master", "lost-master"]


async def test_the_end_of_a_killed_mastership_is_told_by_the_next_daemon(tmp_path: Path) -> None:
    replace_file(tmp_path / "pool.json", encode(replace(LEADING, term=1)))
    eyes = Eyes(FOLLOWING)
    scripts = scripts_of(eyes, tmp_path)
    async with informed(scripts):
        scripts.look()
    assert names(tmp_path) == ["lost-master", "master-changed"]


async def test_a_daemon_that_ends_before_it_had_a_role_leaves_all_to_the_next(
    tmp_path: Path,
) -> None:
    left = encode(LEADING)
    replace_file(tmp_path / "pool.json", left)
    async with informed(scripts_of(Eyes(SEARCHING), tmp_path)):
        pass
    assert not names(tmp_path)
    assert (tmp_path / "pool.json").read_text() == left


async def test_before_a_role_has_begun_nobody_looks(tmp_path: Path) -> None:
    """A state that is refused may look like that of a host without a master until then."""
    eyes = Eyes(SEARCHING)
    async with informed(scripts_of(eyes, tmp_path)):
        await asyncio.sleep(1.2 * LOOK_SECONDS)
    assert not (tmp_path / "pool.json").exists()


async def test_a_host_without_a_pool_has_no_file(tmp_path: Path) -> None:
    scripts = scripts_of(Eyes(), tmp_path)
    async with informed(scripts):
        scripts.look()
    assert not (tmp_path / "pool.json").exists()


async def test_an_error_of_our_own_is_logged_and_ends_no_role(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    eyes = Eyes(LEADING)
    scripts = scripts_of(eyes, tmp_path)
    scripts.look()
    eyes.error = ValueError("a bug")
    async with asyncio.timeout(20):
        with caplog.at_level(logging.ERROR):
            await scripts.run()
    assert "told nothing any more" in caplog.text
