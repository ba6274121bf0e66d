"""Elections among hosts that share a store: when there is one, and when there is none."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

import pytest

from sim.host import SimHost
from sim.world import World, play

SHARED = "sqlite:///shared.db"


async def trio(world: World) -> list[SimHost]:
    """Three hosts of one pool on a shared store; the first is the master."""
    hosts = world.add("phantom", "ignite", "specter", founds_in=SHARED)
    await world.settle()
    for joining in hosts[1:]:
        await world.join(hosts[0], joining)
    await world.settle()
    return hosts


def played(seed: object, scenario: Callable[[World], Coroutine[None, None, None]]) -> World:
    return play(seed, scenario)


@pytest.mark.parametrize("seed", range(5))
def test_a_master_that_loses_its_power_is_replaced_within_a_second(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        phantom.cut_power()
        died = world.clock.monotonic()
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=1.0)
        assert world.clock.monotonic() - died < 0.7
        new = ignite if ignite.mastership else specter
        await world.tag(new, "after")
        await world.settle()
        assert world.members(phantom) == {phantom.uuid, ignite.uuid, specter.uuid}
        assert phantom.mastership is None, "it came back as a member"

    played(f"replaced {seed}", scenario)
