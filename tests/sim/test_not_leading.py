"""Hosts that do not lead: witnesses, and hosts in maintenance while another host can."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from poolcore.errors import PoolError
from poolcore.model import Host, Task, TaskStatus
from poolcore.wire.codec import from_proto
from poolmanager.v1 import host_service_pb2 as pb
from poolmaster.operations.maintenance import Maintenance
from sim.host import SimHost
from sim.test_elections import SHARED, mastered, played, pool_of
from sim.world import Crash, World

POINTS = [*(f"{Maintenance.name}:{step.name}" for step in Maintenance.steps)]


async def with_a_witness(world: World, *names: str) -> list[SimHost]:
    """The hosts of one pool on a shared store; the first is the master, the last a witness."""
    hosts = world.add(*names, founds_in=SHARED)
    witness = hosts[-1]
    assert witness.disk.identity is not None
    witness.disk.identity = replace(witness.disk.identity, witness=True)
    await world.settle()
    for joining in hosts[1:]:
        await world.join(hosts[0], joining)
    await world.settle()
    return hosts


async def maintain(world: World, at: SimHost, host: SimHost, *, on: bool = True) -> Task:
    """Have the master put a host into maintenance; the task as it was recorded."""
    request = pb.SetMaintenanceRequest(
        host=host.uuid, maintenance=on, request_id=world.new_request(at)
    )
    response = await world.ask(at, "HostService/SetMaintenance", request)
    task: Task = from_proto(response.task)
    return task


def is_enabled(world: World, host: SimHost) -> bool:
    """What the pool says of the host."""
    register = world.rules.register_of(host)
    assert register is not None
    return register.state.host(host.uuid).enabled


@pytest.mark.parametrize("seed", range(3))
def test_the_vote_of_a_witness_lets_the_other_host_take_over_within_a_second(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, _ = await with_a_witness(world, "phantom", "ignite", "specter")
        phantom.cut_power()
        await world.until(lambda: ignite.mastership, seconds=1.0)
        await world.settle()

    played(f"witnessed {seed}", scenario)


def test_a_witness_that_is_left_alone_never_leads() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await with_a_witness(world, "phantom", "ignite", "specter")
        phantom.cut_power()
        ignite.cut_power()
        # Its key in the store expires, and the witness has the newest replica there is.
        await world.let_pass(20.0)
        assert specter.mastership is None
        ignite.power_on()
        await world.until(lambda: ignite.mastership, seconds=20.0)
        await world.settle()
        register = world.rules.register_of(specter)
        assert register is not None
        assert [h.witness for h in register.state.all(Host)].count(True) == 1

    played("a witness alone", scenario)


def test_a_host_in_maintenance_leads_as_the_last() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await pool_of(world, "phantom", "ignite", "specter")
        assert (await maintain(world, phantom, ignite)).status is TaskStatus.SUCCESS
        await world.settle()
        phantom.cut_power()
        await world.until(lambda: specter.mastership, seconds=1.0)
        specter.cut_power()
        await world.until(lambda: ignite.mastership, seconds=20.0)
        assert (await maintain(world, ignite, ignite, on=False)).status is TaskStatus.SUCCESS
        await world.settle()

    played("the last", scenario)


@pytest.mark.parametrize("victim", ["phantom", "ignite"])
@pytest.mark.parametrize("moment", ["before", "unanswered", "after"])
@pytest.mark.parametrize("point", [*POINTS, f"{Maintenance.name}:writes-wait"])
def test_whoever_dies_on_the_way_into_maintenance_there_is_one_master_and_the_task_ends(
    point: str, moment: str, victim: str
) -> None:
    async def scenario(world: World) -> None:
        phantom, *_ = await pool_of(world, "phantom", "ignite", "specter")
        world.crash = Crash(point, moment, (victim,))
        with suppress(PoolError):
            await maintain(world, phantom, phantom)
        await world.let_pass(3.0)
        await world.tag(await mastered(world), "it goes on")
        world.crash = None
        await world.settle()
        register = world.rules.register_of(phantom)
        assert register is not None
        tasks = [t for t in register.state.all(Task) if t.operation == Maintenance.name]
        assert all(task.status.is_final for task in tasks)
        done = any(task.status is TaskStatus.SUCCESS for task in tasks)
        assert is_enabled(world, phantom) is not done
        # And the same command again succeeds.
        master = await mastered(world)
        await world.finished(master, await maintain(world, master, phantom))
        await world.until(lambda: not is_enabled(world, phantom))
        assert (await mastered(world)) is not phantom

    played(f"{point} {moment} {victim}", scenario)
