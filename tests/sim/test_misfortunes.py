"""One misfortune at a time: what a pool with a shared store makes of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from poolclient import PoolClient
from sim.test_elections import trio
from sim.world import World, play

CLIENT = "a client"


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("name", ["phantom", "ignite"])
def test_a_clock_that_jumps_changes_nothing(name: str, hours: int) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        master = phantom.mastership
        world.hosts[name].clock.ahead = timedelta(hours=hours)
        for number in range(10):
            await world.tag(ignite, f"tag {number}")
            await world.let_pass(0.5)
        assert phantom.mastership is master
        phantom.cut_power()
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=1.0)
        await world.tag(specter, "after")
        await world.settle()

    play(f"clock of {name} {hours}", scenario)


def test_a_master_that_is_not_heard_is_replaced_though_it_hears_everybody() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        for other in (ignite, specter):
            world.network.cut(phantom.endpoint, other.endpoint, one_way=True)
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=2.0)
        await world.settle()
        assert phantom.mastership is None

    play("not heard", scenario)


def test_a_master_that_hears_nobody_is_not_replaced_while_it_is_heard() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        master = phantom.mastership
        for other in (ignite, specter):
            world.network.cut(other.endpoint, phantom.endpoint, one_way=True)
        # Then connections break, and nobody hears anybody.
        await world.let_pass(3.0)
        assert phantom.mastership is master
        world.network.heal()
        await world.settle()
        assert phantom.mastership is master

    play("hears nobody", scenario)


def test_a_member_with_a_full_disk_holds_nobody_up_and_catches_up() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, _ = await trio(world)
        master = phantom.mastership
        ignite.disk.full = True
        for number in range(10):
            await world.tag(phantom, f"tag {number}")
            await world.let_pass(0.3)
        assert phantom.mastership is master
        await world.settle()

    play("full disk", scenario)


def test_a_replica_whose_disk_does_not_say_what_it_has_is_in_step_again() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, _ = await trio(world)
        ignite.disk.failed_syncs = 3
        for number in range(10):
            await world.tag(phantom, f"tag {number}")
            await world.let_pass(0.3)
        assert ignite.disk.failed_syncs == 0
        await world.settle()

    play("failed syncs", scenario)


@pytest.mark.parametrize("seed", range(3))
def test_lost_messages_cost_time_and_nothing_else(seed: int) -> None:
    async def scenario(world: World) -> None:
        hosts = await trio(world)
        endpoints = [host.endpoint for host in hosts]
        opener = world.opener(CLIENT)
        async with PoolClient.connect(*endpoints, open_channel=opener) as client:
            world.network.losses = 0.03
            for number in range(30):
                await client.set(add_tags=[f"tag {number}"], timeout_seconds=20.0)
            world.network.losses = 0.0
            tags = (await client.pool()).tags
        assert {f"tag {number}" for number in range(30)} <= set(tags)
        await world.settle()

    play(f"lost messages {seed}", scenario)
