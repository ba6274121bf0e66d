"""The simulated driver behind the contract: reading, noticing changes, failing on request."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import SR, VM
from poolmember.drivers.contract import Driver, DriverError, FactOverrides
from poolmember.drivers.sim import SimDriver
from support.hosts.facts import host_id

IGNITE = host_id("ignite")


def driver(path: Path | None) -> SimDriver:
    return SimDriver(path, host_name="ignite", management_endpoint="127.0.0.2:7443")


class HostFile:
    """The file of the host, as somebody edits it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def says(self, content: str | bytes) -> None:
        self.path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def has_a_vm(self, state: str) -> None:
        self.says(f'[[vm]]\nname = "web1"\npower_state = "{state}"\n')

    def is_gone(self) -> None:
        self.path.unlink()


@pytest.fixture
def file(tmp_path: Path) -> HostFile:
    file = HostFile(tmp_path / "ignite.toml")
    file.has_a_vm("halted")
    return file


@pytest.fixture
async def opened(file: HostFile) -> AsyncIterator[SimDriver]:
    sim = driver(file.path)
    await sim.open(IGNITE)
    yield sim
    await sim.close()


async def states(sim: SimDriver) -> list[str]:
    inventory = await sim.inventory()
    return [obj.power_state for obj in inventory.objects if isinstance(obj, VM)]


async def test_it_is_a_driver_and_without_a_file_a_fresh_host() -> None:
    sim: Driver = driver(None)
    await sim.open(IGNITE)

    inventory = await sim.inventory()

    assert len(inventory.srs()) == 3
    assert sim.overrides() == FactOverrides()
    await sim.close()


async def test_the_inventory_is_read_from_the_file(opened: SimDriver) -> None:
    assert await states(opened) == ["halted"]
    assert {sr.name_label for sr in (await opened.inventory()).srs()} >= {"Local storage"}


async def test_what_has_not_changed_is_not_built_again(opened: SimDriver) -> None:
    assert await opened.inventory() is await opened.inventory()


async def test_an_edit_is_in_the_next_inventory_at_once(opened: SimDriver, file: HostFile) -> None:
    file.has_a_vm("paused")
    assert await states(opened) == ["paused"]
    # The same size, and within one tick of the file system's clock.
    file.has_a_vm("halted")
    assert await states(opened) == ["halted"]


async def test_an_edit_between_reading_and_listening_is_not_missed(
    opened: SimDriver, file: HostFile
) -> None:
    await opened.inventory()
    changes = opened.changes()
    file.has_a_vm("running")

    async with asyncio.timeout(2):
        await anext(changes)


async def test_an_edit_while_listening_is_noticed_without_a_poke(
    opened: SimDriver, file: HostFile
) -> None:
    changes = opened.changes()

    async with asyncio.timeout(2), asyncio.TaskGroup() as group:
        listening = group.create_task(_next(changes))
        await asyncio.sleep(0)
        assert not listening.done()
        file.has_a_vm("running")

    assert await states(opened) == ["running"]


async def test_a_poke_is_told_to_everybody_who_listens(opened: SimDriver) -> None:
    listeners = [opened.changes(), opened.changes()]

    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(_next(listener)) for listener in listeners]
        await asyncio.sleep(0)
        opened.poke()
        async with asyncio.timeout(2):
            await asyncio.gather(*waiting)


async def _next(changes: AsyncIterator[None]) -> None:
    await anext(changes)


async def test_closing_ends_the_changes(opened: SimDriver) -> None:
    changes = opened.changes()

    async with asyncio.timeout(2):
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(_all(changes))
            await asyncio.sleep(0)
            await opened.close()

    assert ended.result() == 0


async def _all(changes: AsyncIterator[None]) -> int:
    return len([None async for _ in changes])


async def test_a_bad_file_is_refused_before_anything_starts(file: HostFile) -> None:
    file.says("[[vm]]\n")
    with pytest.raises(PoolError) as caught:
        await driver(file.path).open(IGNITE)
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert str(file.path) in caught.value.message


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
async def test_a_file_that_is_not_there_or_no_text_is_refused(
    file: HostFile, content: bytes | None
) -> None:
    file.is_gone()
    if content is not None:
        file.says(content)
    with pytest.raises(PoolError) as caught:
        await driver(file.path).open(IGNITE)
    assert caught.value.reason is Reason.INVALID_CONFIGURATION


async def test_a_file_that_turns_bad_is_an_error_never_an_empty_host(
    opened: SimDriver, file: HostFile
) -> None:
    file.says("[[vm]]\n")
    for _ in range(2):
        with pytest.raises(DriverError, match=r"ignite.*vm\[0\]\.name"):
            await opened.inventory()
    file.is_gone()
    with pytest.raises(DriverError, match="cannot be read"):
        await opened.inventory()

    file.has_a_vm("running")

    assert await states(opened) == ["running"]


async def test_a_file_that_is_just_being_rewritten_is_not_a_fresh_host(
    opened: SimDriver, file: HostFile
) -> None:
    await opened.inventory()
    changes = opened.changes()

    async with asyncio.TaskGroup() as group:
        listening = group.create_task(_next(changes))
        file.says("")
        assert await states(opened) == ["halted"]
        await asyncio.sleep(0)
        assert not listening.done()
        file.has_a_vm("running")
        opened.poke()

    assert await states(opened) == ["running"]


async def test_what_a_host_pretends_follows_the_file_and_outlives_a_mistake_in_it(
    opened: SimDriver, file: HostFile
) -> None:
    file.says("clock_skew_seconds = 5.0")
    assert opened.overrides().clock_skew_seconds == 5.0
    file.says("clock_skew_seconds = oops")
    assert opened.overrides().clock_skew_seconds == 5.0
    file.says("# nothing")
    assert opened.overrides() == FactOverrides()


async def test_the_driver_fails_when_the_file_says_so(opened: SimDriver, file: HostFile) -> None:
    file.says('[faults]\ndriver_error = "the hypervisor has a bad day"')
    with pytest.raises(DriverError, match="the hypervisor has a bad day"):
        await opened.inventory()


async def test_the_driver_is_slow_when_the_file_says_so(opened: SimDriver, file: HostFile) -> None:
    file.says("[faults]\ndriver_delay_seconds = 60")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await opened.inventory()


async def test_the_event_loop_goes_on_while_ten_thousand_vms_are_read(
    opened: SimDriver, file: HostFile
) -> None:
    file.says('[[vm]]\nname = "vm"\ncount = 10_000\n[[vm.disk]]\n[[vm.nic]]\n')
    turns = 0

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(opened.inventory())
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)

    inventory = reading.result()
    assert sum(isinstance(obj, VM) for obj in inventory.objects) == 10_000
    assert turns >= 40
    assert sum(isinstance(obj, SR) for obj in inventory.objects) == 3


async def test_it_reports_nothing_before_it_is_opened(file: HostFile) -> None:
    with pytest.raises(DriverError, match="not open"):
        await driver(file.path).inventory()
