"""Every example does what it says, with real daemons."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from poolclient import PoolClient
from support.daemons import Cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
VMS = """
[[vm]]
name = "web1"
power_state = "running"
memory_mib = 512
[[vm]]
name = "web2"
power_state = "halted"
memory_mib = 512
[[vm]]
name = "db1"
power_state = "halted"
memory_mib = 512
"""


async def run(example: str, *arguments: str, folder: Path, code: int = 0, **env: str) -> list[str]:
    """Run an example to its end; the lines it prints."""
    file = str(EXAMPLES / example)
    command = [sys.executable, file] if example.endswith(".py") else [file]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        cwd=folder,
        env={**os.environ, **env, "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == code, err.decode()
    return out.decode().splitlines()


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text()
    names = {f.name for f in EXAMPLES.iterdir() if f.is_file()}
    assert [name for name in names if f'"{name}"' not in here] == []


async def test_reading_and_writing(cluster: Cluster, tmp_path: Path) -> None:
    phantom = cluster.local("phantom", sim=VMS)
    await cluster.start()
    tagged = await run("tag_vms.py", phantom.endpoint, "web", "prod", folder=tmp_path)
    assert [line.partition(": tagged at")[0] for line in sorted(tagged)] == ["web1", "web2"]
    assert sorted(await run("nightly.py", phantom.endpoint, folder=tmp_path)) == [
        "db1 is unowned",
        "web1 is unowned",
        "web2 is unowned",
    ]
    report = await run("report.py", "127.0.0.1:1", phantom.endpoint, folder=tmp_path)
    assert "  phantom (live)" in report
    assert "    web1: running; storage: none" in report


async def test_following(cluster: Cluster, tmp_path: Path) -> None:
    phantom = cluster.local("phantom", sim=VMS)
    await cluster.start()
    log = tmp_path / "changes.jsonl"
    async with PoolClient.connect(phantom.endpoint) as pool:
        state = (await pool.vms.list()).freshness
        begun = {"incarnation": state.incarnation, "revision": state.revision, "changes": []}
        log.write_text(json.dumps(begun) + "\n")
        for part in (2, 3):
            for n in range(part):
                await pool.vms.set("db1", name_description=f"{part}.{n}")
            await run("audit_log.py", phantom.endpoint, str(log), str(part), folder=tmp_path)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["revision"] for line in lines] == list(
            range(state.revision, state.revision + 6)
        )


async def test_growing(cluster: Cluster, tmp_path: Path) -> None:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    misfit, specter = cluster.local("misfit", sim=VMS), cluster.local("specter")
    await cluster.start()
    hosts = [h.endpoint for h in (ignite, misfit)]
    lines = await run("grow.py", phantom.endpoint, *hosts, folder=tmp_path)
    assert f"{ignite.endpoint}: joined" in lines
    assert len([line for line in lines if line.startswith(misfit.endpoint)]) == 3
    server = phantom.endpoint
    lines = await run("scripted.sh", specter.endpoint, folder=tmp_path, POOL_SERVER=server)
    assert lines == [f"{specter.endpoint} fits", "9 storage repositories"]
    lines = await run("scripted.sh", misfit.endpoint, folder=tmp_path, code=5, POOL_SERVER=server)
    assert (tmp_path / "remedies.sh").read_text().startswith("#!/bin/sh")
    assert "does not fit" in lines[0]
    lines = await run(
        "scripted.sh", specter.endpoint, folder=tmp_path, code=6, POOL_SERVER="127.0.0.1:1"
    )
    assert lines == ["no host of the pool answers"]


@pytest.mark.parametrize("example", sorted(f.name for f in EXAMPLES.glob("*.py")))
async def test_every_example_says_in_its_docstring_how_to_run_it(example: str) -> None:
    assert f"python examples/{example} " in (EXAMPLES / example).read_text()
