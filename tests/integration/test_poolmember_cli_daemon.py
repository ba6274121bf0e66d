"""`poolmember run` on a simulated host, and the other commands beside it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

POOLMEMBER = str(Path(sys.executable).with_name("poolmember"))
READY_SECONDS = 20.0
END_SECONDS = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def daemon(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon on the directory `path`, once it has told the service manager that it serves."""
    manager_path = str(path.parent / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(manager_path)
        manager.settimeout(READY_SECONDS)
        place = ("--state-dir", str(path), "--listen", f"127.0.0.1:{free_port()}")
        process = subprocess.Popen(
            [POOLMEMBER, "run", "--driver", "sim", "--name", "phantom", *place, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NOTIFY_SOCKET": manager_path},
        )
        try:
            assert "READY=1" in manager.recv(1000).decode().splitlines()
            yield process
        finally:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
            os.unlink(manager_path)


def inspected(path: Path) -> dict[str, object]:
    done = subprocess.run(
        [POOLMEMBER, "inspect", "--state-dir", path, "-o", "json"],
        check=True,
        capture_output=True,
        text=True,
    )
    told: dict[str, object] = json.loads(done.stdout)
    return told


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_the_daemon_ends_cleanly_and_its_log_is_one_event_a_line(path: Path) -> None:
    with daemon(path, "--log-format", "json") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        events = [json.loads(line) for line in process.stderr]
        assert process.wait(END_SECONDS) == 0
    assert events
    assert all({"time", "level", "logger", "message"} <= set(event) for event in events)


def test_inspect_works_beside_the_daemon_and_after_its_death(path: Path) -> None:
    with daemon(path):
        alive = inspected(path)
        assert alive["host"] == {"uuid": _host(alive), "name": "phantom"}
        assert (path / "api.sock").stat().st_mode & 0o777 == 0o600
    dead = inspected(path)
    assert dead["membership"] == alive["membership"]
    with daemon(path):
        again = inspected(path)
    assert again["membership"] == alive["membership"], "a killed daemon's pool is still there"


def test_only_one_daemon_and_no_reset_beside_it(path: Path) -> None:
    with daemon(path):
        for arguments in (["run", "--driver", "sim"], ["reset", "--yes"]):
            done = subprocess.run(
                [POOLMEMBER, *arguments, "--state-dir", path],
                check=False,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 2
            assert "already runs" in done.stderr


def test_after_a_reset_the_same_host_founds_another_pool(path: Path) -> None:
    with daemon(path):
        before = inspected(path)
    subprocess.run([POOLMEMBER, "reset", "--yes", "--state-dir", path], check=True)
    with daemon(path):
        after = inspected(path)
    assert _host(after) == _host(before)
    assert _pool(after) != _pool(before)


def _host(told: dict[str, object]) -> str:
    host = told["host"]
    assert isinstance(host, dict)
    return str(host["uuid"])


def _pool(told: dict[str, object]) -> str:
    membership = told["membership"]
    assert isinstance(membership, dict)
    return str(membership["pool"])
