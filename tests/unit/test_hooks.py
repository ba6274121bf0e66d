"""Hooks, as real shell scripts: in order, in time, and none that could be anybody's."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from poolcore.errors import Reason
from poolmember.hook_process import HookFailed, HookTimedOut, run_hook
from poolmember.hooks import HookRunner
from poolmember.place import Event
from support.hooks import ran, write_hook
from support.places import FOLLOWING, LEADING

SECRET = {"PATH": os.environ["PATH"], "AWS_SECRET": "s3cret", "NOTIFY_SOCKET": "@x"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hooks.d"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@asynccontextmanager
async def running(
    folder: Path, *, seconds: float = 10.0, end_seconds: float = 10.0
) -> AsyncIterator[HookRunner]:
    """A runner; at the end, until it has done what was added."""

    async def caught_up() -> None:
        return

    runner = HookRunner(
        folder,
        seconds=seconds,
        pool_file=Path("/run/poolmember/pool.json"),
        caught_up=caught_up,
        environ=SECRET,
        end_seconds=end_seconds,
    )
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(runner.run())
        yield runner
        runner.close()


async def told(folder: Path, *events: Event, seconds: float = 10.0) -> HookRunner:
    """The runner after it was told of these events."""
    async with running(folder, seconds=seconds) as runner:
        for event in events:
            runner.add(event, LEADING)
    return runner


def there(path: Path) -> bool:
    return path.exists()


async def until_there(path: Path) -> None:
    """Until a script has made the file."""
    # A file tells nobody that it is there.
    while not there(path):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """What the log has of a hook's output."""
    told = (record.getMessage() for record in caplog.records)
    return [text.removeprefix(f"{name}: ") for text in told if text.startswith(f"{name}: ")]


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


# -- what a hook is told --------------------------------------------------------------------------


async def test_a_hook_is_told_of_the_pool_and_of_none_of_the_daemons_secrets(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "became-master", "env; pwd; read line || echo nothing to read")
    await told(folder, Event.BECAME_MASTER)
    said = lines(caplog, "became-master")
    assert {line for line in said if line.startswith("POOL_")} == {
        f"POOL_UUID={LEADING.pool}",
        "POOL_NAME=phantom",
        "POOL_ROLE=master",
        "POOL_MASTER=phantom",
        f"POOL_MASTER_UUID={LEADING.host}",
        "POOL_MASTER_ADDRESS=127.0.0.1:7443",
        "POOL_TERM=2",
        "POOL_HOST=phantom",
        f"POOL_HOST_UUID={LEADING.host}",
        "POOL_FILE=/run/poolmember/pool.json",
    }
    others = {line.partition("=")[0] for line in said if "=" in line and line[:5] != "POOL_"}
    assert others - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "HOME", "LANG"}, "of the shell, too"
    assert said[-2:] == ["/", "nothing to read"]


async def test_a_pools_name_with_a_zero_byte_is_no_way_to_keep_hooks_from_running(
    folder: Path,
) -> None:
    write_hook(folder, "became-master")
    async with running(folder) as runner:
        runner.add(Event.BECAME_MASTER, replace(LEADING, pool_name="a\0b", master=None))
    assert ran(folder) == ["became-master master ab "]


async def test_output_is_logged_line_by_line_the_last_one_also_without_its_end(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "became-master", r"echo one; echo two >&2; printf 'th\377ree'")
    await told(folder, Event.BECAME_MASTER)
    assert lines(caplog, "became-master") == ["one", "two", r"th\xffree"]


async def test_a_hook_that_prints_without_end_fills_no_log(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "became-master", "seq 1 5000; head -c 300000 /dev/zero")
    runner = await told(folder, Event.BECAME_MASTER)
    assert lines(caplog, "became-master") == [str(number) for number in range(1, 1001)]
    assert "became-master prints more than 1000 lines, left out here" in caplog.messages
    assert runner.last_failures == {}


async def test_a_line_that_does_not_end_becomes_several(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "became-master", "head -c 5000 /dev/zero | tr '\\0' x")
    await told(folder, Event.BECAME_MASTER)
    assert [len(line) for line in lines(caplog, "became-master")] == [2000, 2000, 1000]


# -- order ----------------------------------------------------------------------------------------


async def test_hooks_run_one_after_the_other_in_the_order_of_the_events(folder: Path) -> None:
    slow = 'echo "${0##*/} begins" >> ran; sleep 0.1; echo "${0##*/} ends" >> ran'
    for name in ("left-pool", "became-master"):
        write_hook(folder, name, f'cd "$(dirname "$0")"; {slow}')
    await told(folder, Event.LEFT_POOL, Event.MASTER_CHANGED, Event.BECAME_MASTER)
    assert ran(folder) == [
        "left-pool begins", "left-pool ends", "became-master begins", "became-master ends",
    ]  # fmt: skip


async def test_of_each_kind_only_the_last_event_waits(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "left-pool", 'cd "$(dirname "$0")"; mkfifo go; read line < go')
    for name in ("became-master", "lost-master"):
        write_hook(folder, name, 'echo "${0##*/} $POOL_TERM" >> "$(dirname "$0")/ran"')
    async with running(folder) as runner:
        runner.add(Event.LEFT_POOL, LEADING)
        await until_there(folder / "go")
        for term in range(1, 1000):
            runner.add(Event.BECAME_MASTER, replace(LEADING, term=term))
            runner.add(Event.LOST_MASTER, replace(FOLLOWING, term=term))
        runner.add(Event.BECAME_MASTER, replace(LEADING, term=1000))
        await asyncio.to_thread((folder / "go").write_text, "go\n")
    assert ran(folder) == ["lost-master 999", "became-master 1000"]
    assert "hook became-master waits already; it is run once, for the newer event" in (
        caplog.messages
    )


async def test_hooks_wait_until_the_file_says_what_they_are_about(folder: Path) -> None:
    write_hook(folder, "became-master")
    written = asyncio.Event()

    async def caught_up() -> None:
        assert ran(folder) == []
        await written.wait()

    runner = HookRunner(folder, seconds=10, pool_file=folder / "x", caught_up=caught_up, environ={})
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(runner.run())
        runner.add(Event.BECAME_MASTER, LEADING)
        written.set()
        runner.close()
    assert ran(folder) == ["became-master master phantom phantom"]


async def test_a_directory_that_is_not_there_or_has_no_such_hook_is_no_failure(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for where in (folder, tmp_path / "none", write_hook(folder, "a-file")):
        runner = await told(where, Event.BECAME_MASTER)
        assert runner.last_failures == {}
    assert warnings(caplog) == []


# -- what goes wrong ------------------------------------------------------------------------------


async def test_a_hook_that_fails_is_told_until_it_succeeds(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "became-master", "echo no address; exit 3")
    write_hook(folder, "master-changed", "kill -9 $$")
    async with running(folder) as runner:
        runner.add(Event.BECAME_MASTER, LEADING)
        runner.add(Event.MASTER_CHANGED, LEADING)
    failed = runner.last_failures
    assert {event: error.reason for event, error in failed.items()} == {
        Event.BECAME_MASTER: Reason.HOOK_FAILED,
        Event.MASTER_CHANGED: Reason.HOOK_FAILED,
    }
    assert "exit code 3" in failed[Event.BECAME_MASTER].message
    assert "signal 9" in failed[Event.MASTER_CHANGED].message
    first, second = warnings(caplog)
    assert vars(first)["code"] == vars(second)["code"] == "HOOK_FAILED"
    assert str(folder / "became-master") in vars(first)["hint"]


async def test_a_failure_is_forgotten_with_the_next_success_or_with_the_hook(
    folder: Path,
) -> None:
    good = folder / "good"
    write_hook(folder, "became-master", f"test -e {good}")
    gone = write_hook(folder, "lost-master", "exit 1")
    done = folder / "done"
    write_hook(folder, "left-pool", f"touch {done}")
    async with running(folder) as runner:
        for event in (Event.BECAME_MASTER, Event.LOST_MASTER, Event.LEFT_POOL):
            runner.add(event, LEADING)
        await until_there(done)
        assert set(runner.last_failures) == {Event.BECAME_MASTER, Event.LOST_MASTER}
        good.touch()
        gone.unlink()
        for event in (Event.BECAME_MASTER, Event.LOST_MASTER):
            runner.add(event, LEADING)
    assert runner.last_failures == {}


async def test_a_script_that_names_no_interpreter_cannot_be_started(folder: Path) -> None:
    path = write_hook(folder, "became-master")
    path.write_text("echo hello\n")
    runner = await told(folder, Event.BECAME_MASTER)
    assert "Exec format error" in runner.last_failures[Event.BECAME_MASTER].message


async def test_a_hook_that_hangs_is_ended_and_the_next_one_runs(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "lost-master", "echo waiting; sleep 600")
    write_hook(folder, "master-changed")
    runner = await told(folder, Event.LOST_MASTER, Event.MASTER_CHANGED, seconds=1.5)
    error = runner.last_failures[Event.LOST_MASTER]
    assert error.reason is Reason.HOOK_TIMED_OUT
    assert "1.5 s" in error.message
    assert "--hook-seconds" in error.remedy
    assert lines(caplog, "lost-master") == ["waiting"]
    assert len(ran(folder)) == 1


async def test_what_a_hanging_hook_has_started_ends_with_it_even_if_it_ignores_sigterm(
    folder: Path,
) -> None:
    child = "trap '' TERM; echo $$ > child.new; mv child.new child; sleep 600; sleep 600"
    hook = write_hook(
        folder, "became-master", f"cd {folder}\ntrap '' TERM\nsh -c \"{child}\" &\nwait; sleep 600"
    )
    hook.write_text(hook.read_text().replace("$$", "\\$\\$"))
    deadlines: list[asyncio.Timeout] = []

    async def run() -> None:
        with pytest.raises(HookTimedOut):
            await run_hook(hook, SECRET, seconds=60, limited=deadlines.append, term_seconds=0.2)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(run())
        await until_there(folder / "child")
        deadlines[0].reschedule(asyncio.get_running_loop().time())
    pid = int((folder / "child").read_text())
    async with asyncio.timeout(10):
        # Its parent is gone, so that nobody here is told of its end.
        while alive(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be forgotten does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


async def test_a_child_that_keeps_the_output_open_keeps_nobody_waiting(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "became-master", f"sleep 600 &\necho $! > {folder}/child; echo started")
    runner = await told(folder, Event.BECAME_MASTER)
    pid = int((folder / "child").read_text())
    assert alive(pid), "a hook that ended well may leave something running"
    os.kill(pid, 9)
    assert lines(caplog, "became-master") == ["started"]
    assert runner.last_failures == {}


async def test_a_cancelled_run_leaves_no_process_behind(folder: Path) -> None:
    hook = write_hook(folder, "became-master", f"echo $$ > {folder}/pid.new; mv {folder}/pid.new "
                      f"{folder}/pid; sleep 600")  # fmt: skip
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        run = tasks.create_task(run_hook(hook, SECRET, seconds=60, limited=lambda _: None))
        await until_there(folder / "pid")
        run.cancel()
    assert not alive(int((folder / "pid").read_text()))


# -- whose hooks are run --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "folder_mode", "says"),
    [
        (0o644, 0o755, "not executable"),
        (0o757, 0o755, "it may be written by others"),
        (0o775, 0o755, "it may be written by others"),
        (0o755, 0o777, "its directory may be written by others"),
        (0o755, 0o1777, "its directory may be written by others"),
    ],
)
async def test_a_file_that_others_could_have_written_is_not_run_and_that_is_said_once(
    folder: Path, mode: int, folder_mode: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "became-master", mode=mode)
    write_hook(folder, "left-pool", mode=mode)
    os.chmod(folder, folder_mode)
    async with running(folder) as runner:
        for event in (Event.BECAME_MASTER, Event.LEFT_POOL):
            # The first one twice, and that has been done when the second one is refused.
            runner.add(Event.BECAME_MASTER, LEADING)
            runner.add(event, LEADING)
            # The runner tells nobody when it rests.
            while event not in runner.last_failures:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert ran(folder) == []
    error = runner.last_failures[Event.BECAME_MASTER]
    assert error.reason is Reason.HOOK_REFUSED
    assert says in error.message
    first, second = warnings(caplog)
    assert vars(first)["code"] == vars(second)["code"] == "HOOK_REFUSED"
    assert "became-master" in first.getMessage()
    assert "left-pool" in second.getMessage()
    assert "chmod" in vars(first)["hint"]


async def test_links_and_directories_are_no_hooks(folder: Path, tmp_path: Path) -> None:
    (folder / "became-master").symlink_to(write_hook(folder, "elsewhere"))
    (folder / "lost-master").mkdir()
    runner = await told(folder, Event.BECAME_MASTER, Event.LOST_MASTER)
    assert {error.reason for error in runner.last_failures.values()} == {Reason.HOOK_REFUSED}
    assert len(runner.last_failures) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_a_file_of_another_user_is_not_run(folder: Path) -> None:
    os.chown(write_hook(folder, "became-master"), 1234, 1234)
    runner = await told(folder, Event.BECAME_MASTER)
    assert "belongs to user 1234" in runner.last_failures[Event.BECAME_MASTER].message


# -- the end of the daemon ------------------------------------------------------------------------


async def test_the_end_of_the_daemon_waits_for_a_hook_but_not_for_ever(
    folder: Path,
) -> None:
    begun = folder / "begun"
    write_hook(folder, "became-master", f"touch {begun}; sleep 600")
    write_hook(folder, "lost-master")
    began = asyncio.get_running_loop().time()
    async with running(folder, seconds=30, end_seconds=4) as runner:
        runner.add(Event.BECAME_MASTER, LEADING)
        await until_there(begun)
        runner.add(Event.LOST_MASTER, LEADING)
    assert asyncio.get_running_loop().time() - began < 10
    assert "had not ended when the daemon did" in runner.last_failures[Event.BECAME_MASTER].message
    assert len(ran(folder)) == 1, "what is left of the time is for the next one"


async def test_a_hook_whose_turn_never_came_is_said(folder: Path) -> None:
    write_hook(folder, "became-master")
    async with running(folder, end_seconds=0.1) as runner:
        runner.add(Event.BECAME_MASTER, LEADING)
    assert ran(folder) == []
    assert "before its turn came" in runner.last_failures[Event.BECAME_MASTER].message


async def test_a_hook_that_fails_to_start_raises_what_it_was(folder: Path) -> None:
    with pytest.raises(HookFailed, match="cannot be started"):
        await run_hook(folder / "none", SECRET, seconds=1, limited=lambda _: None)
