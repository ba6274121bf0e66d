"""`pool demo`: what somebody sees who has never seen it, and that it leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

POOL = str(Path(sys.executable).with_name("pool"))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo's files go; not `tmp_path`, whose name may be too long for a socket's."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    """An environment in which nobody else's demo is seen."""
    return {**os.environ, "XDG_RUNTIME_DIR": str(folder), "TMPDIR": str(folder)}


def daemons(folder: Path) -> list[int]:
    """The processes that run with files in `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"poolmember" in command and str(folder).encode() in command:
                found.append(int(entry.name))
    return found


def test_the_demo_forms_a_pool_and_refuses_a_misfit(
    environment: dict[str, str], folder: Path
) -> None:
    done = subprocess.run(
        [POOL, "demo"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 96
    chapters = re.findall(r"^\d\. .*$", done.stdout, flags=re.MULTILINE)
    assert len(chapters) == 7
    reigns = re.findall(r"(founded|designated|elected)", done.stdout)
    assert [why for why in ("founded", "designated", "elected") if why not in reigns] == []
    srs = re.findall(r"^.* (?:ext|udev|nfs|iscsi) .*$", done.stdout, flags=re.MULTILINE)
    assert len(srs) == 6 + 12
    for code in (
        "POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION",
        "JOINING_HOST_CANNOT_HAVE_VMS",
        "POOL_JOINING_HOST_HAS_NETWORKS",
        "JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS",
        "CLOCK_SKEW",
    ):
        assert code in done.stdout
    assert daemons(folder) == []
    assert list(folder.iterdir()) == []


def test_a_kept_demo_can_be_talked_to_and_ended(environment: dict[str, str], folder: Path) -> None:
    def pool(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [POOL, *arguments],
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    kept = pool("demo", "--keep")
    try:
        assert kept.returncode == 0, kept.stderr
        match = re.search(r"export (POOL_SERVER=\S+)", kept.stdout)
        assert match is not None
        name, _, server = match[1].partition("=")
        names = pool("host", "list", "-o", "name", **{name: server}).stdout.split()
        assert sorted(names) == ["ignite", "phantom", "specter"]
        assert len(daemons(folder)) == 4
    finally:
        stopped = pool("demo", "--stop")
    assert (stopped.returncode, daemons(folder)) == (0, [])
    assert "No demo is running." in pool("demo", "--stop").stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(
    environment: dict[str, str], folder: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [POOL, "demo"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 20
    while not daemons(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert daemons(folder) == []
    assert list(folder.iterdir()) == []
