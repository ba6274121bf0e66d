import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolmember.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket, and what NOTIFY_SOCKET says of it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@poolmember-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(5)
        yield listening, address


def test_the_manager_is_told_in_its_own_words(manager: tuple[socket.socket, str]) -> None:
    listening, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("master of pool a\nREADY=0")
    assert listening.recv(1000) == b"READY=1\nSTATUS=master of pool a READY=0"
    notifier.status("following")
    assert listening.recv(1000) == b"STATUS=following"
    notifier.stopping()
    assert listening.recv(1000) == b"STOPPING=1"


def test_without_a_manager_nothing_happens() -> None:
    Notifier({}).ready("master")


def test_a_manager_that_has_gone_is_no_reason_to_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("master")
    assert "READY=1" in caplog.text
