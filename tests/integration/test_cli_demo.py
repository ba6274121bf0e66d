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
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which nobody else's demo is seen."""
    return {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}


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
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [POOL, "demo"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 96
    chapters = re.findall(r"^\d\. .*$", done.stdout, flags=re.MULTILINE)
    assert len(chapters) == 5
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
    assert daemons(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_kept_demo_can_be_talked_to_and_ended(
    environment: dict[str, str], tmp_path: Path
) -> None:
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
        assert len(daemons(tmp_path)) == 4
    finally:
        stopped = pool("demo", "--stop")
    assert (stopped.returncode, daemons(tmp_path)) == (0, [])
    assert "No demo is running." in pool("demo", "--stop").stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [POOL, "demo"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 20
    while not daemons(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert daemons(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
