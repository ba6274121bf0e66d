"""The command as a process: terminals, pipes, signals, the shell's completion."""

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolcore.model import Kind, Object
from support.fake_server import FakeHost
from support.fakes import served
from support.small_pool import NFS

POOL = str(Path(sys.executable).with_name("pool"))


LOOPS: dict[FakeHost, asyncio.AbstractEventLoop] = {}


@pytest.fixture(scope="module")
def host() -> Iterator[FakeHost]:
    with served() as (host, loop):
        LOOPS[host] = loop
        yield host


def change(host: FakeHost, obj: Object) -> None:
    """Commit a change in the thread where the host is."""
    LOOPS[host].call_soon_threadsafe(host.pool.put, obj)


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS"}}
    return kept | {"TERM": "xterm"} | more


def on_terminal(
    *arguments: str, until: str = "", **env: str
) -> tuple[subprocess.Popen[bytes], str]:
    """Run `pool` on a terminal of 80 columns; what it shows up to `until`, or to its end."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [POOL, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment(COLUMNS="80", **env),
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if select.select([main], [], [], 0.1)[0]:
            try:
                shown += os.read(main, 65536)
            except OSError:  # the other side is closed
                break
        if until and until.encode() in shown:
            break
    if not until:
        process.wait(10)
        os.close(main)
    return process, shown.decode(errors="replace")


def test_tables_on_a_terminal_fit_into_80_columns(host: FakeHost) -> None:
    for noun in ("host", "sr", "vm", "vdi", "pif", "network"):
        process, shown = on_terminal("--server", host.address, noun, "list", NO_COLOR="1")
        assert process.returncode == 0
        assert "\x1b" not in shown
        assert max(map(len, shown.splitlines())) <= 80, shown


def test_a_pipe_gets_plain_text_and_may_be_closed(host: FakeHost) -> None:
    listed = subprocess.run(
        [POOL, "--server", host.address, "vm", "list"],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert "\x1b" not in listed.stdout
    with subprocess.Popen(
        [POOL, "--server", host.address, "events", "--since", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as events:
        assert events.stdout is not None
        assert events.stderr is not None
        sr = host.pool.find(Kind.SR, NFS)
        change(host, sr)
        assert "nfs-iso" in events.stdout.readline()
        events.stdout.close()
        deadline = time.monotonic() + 10
        while events.poll() is None and time.monotonic() < deadline:
            change(host, sr)
            time.sleep(0.02)
        assert events.stderr.read() == ""


def test_ctrl_c_leaves_the_task_running_and_says_so(host: FakeHost) -> None:
    before = host.calls["Watch"]
    process = subprocess.Popen(
        [POOL, "--server", host.address, "add-host", "specter"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    deadline = time.monotonic() + 20
    while host.calls["Watch"] == before and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == ""
    assert "goes on; `pool task show " in err
    assert "Traceback" not in err


def test_ctrl_c_elsewhere_is_130_without_a_word(host: FakeHost) -> None:
    before = host.calls["Watch"]
    process = subprocess.Popen(
        [POOL, "--server", host.address, "events"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    deadline = time.monotonic() + 20
    while host.calls["Watch"] == before and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_terminal_gets_a_progress_bar(host: FakeHost) -> None:
    process, shown = on_terminal("--server", host.address, "add-host", "specter", until="host.join")
    try:
        assert "\x1b[" in shown
    finally:
        process.kill()
        process.wait()


def complete(words: str, **env: str) -> tuple[list[str], str, float]:
    """What the shell would be offered for the last word, errors, and how long it took."""
    started = time.monotonic()
    done = subprocess.run(
        [POOL],
        env=environment(
            _POOL_COMPLETE="complete_bash",
            COMP_WORDS=words,
            COMP_CWORD=str(len(words.split(" ")) - 1),
            **env,
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.stdout.split(), done.stderr, time.monotonic() - started


LITTLE_MORE = 10
"""On a machine that is busy with tests a process may take several times as long as the next; a wait
for an answer, were there one, would be a hundred times as long."""


def without_asking() -> float:
    """How long it takes here and now to complete what needs no host."""
    return complete("pool add")[2]


def test_names_are_completed_from_the_pool(host: FakeHost) -> None:
    assert complete("pool vm show w", POOL_SERVER=host.address)[0] == ["web1", "web2"]
    assert complete(f"pool --server {host.address} eject-host ig")[0] == ["ignite"]
    assert complete("pool vm show 5000", POOL_SERVER=host.address)[0] == [
        "50000000-0000-4000-8000-000000000001",
        "50000000-0000-4000-8000-000000000002",
    ]
    assert "add-host" in complete("pool add")[0]


def test_completion_is_silent_and_quick_when_no_host_answers(host: FakeHost) -> None:
    for server in ("127.0.0.1:1", "unix:///nowhere/api.sock", "nonsense::"):
        offered, errors, took = complete("pool vm show w", POOL_SERVER=server)
        assert (offered, errors) == ([], "")
        assert took < LITTLE_MORE * without_asking()


def test_completion_does_not_wait_for_a_host_that_is_frozen() -> None:
    with subprocess.Popen([sys.executable, "-c", SILENT], stdout=subprocess.PIPE, text=True) as it:
        try:
            assert it.stdout is not None
            address = it.stdout.readline().strip()
            offered, errors, took = complete("pool vm show w", POOL_SERVER=address)
        finally:
            it.kill()
    assert (offered, errors) == ([], "")
    assert took < LITTLE_MORE * without_asking()


SILENT = """
import socket, time
listener = socket.create_server(("127.0.0.1", 0))
print("127.0.0.1:%d" % listener.getsockname()[1], flush=True)
time.sleep(60)
"""
