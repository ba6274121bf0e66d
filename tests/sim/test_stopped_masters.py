"""A master that is stopped for a while, and goes on as if nothing had been (SIGSTOP, SIGCONT)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from poolclient import Freshness, PoolClient, PoolClientError
from poolcore.model import Host
from poolcore.requests import request_id
from sim.host import SimHost
from sim.test_elections import trio
from sim.test_planted_bugs import NoCompareOfHead, ReadsWithoutBarrier
from sim.world import World, play

STOPPED_SECONDS = 10.0
PATIENCE_SECONDS = 30.0


def client_of(world: World, name: str, *hosts: SimHost) -> PoolClient:
    return PoolClient.connect(
        *(host.endpoint for host in hosts),
        timeout_seconds=PATIENCE_SECONDS,
        master_patience_seconds=PATIENCE_SECONDS,
        open_channel=world.opener(name),
    )


async def read(client: PoolClient, host: SimHost) -> Freshness:
    _, freshness = await client.hosts.read(host.uuid)
    return freshness


async def write(world: World, client: PoolClient, host: SimHost, tag: str) -> None:
    """Ask for a write; what the client is told is what the chain says."""
    id_ = request_id(client.revision, f"{tag:a>16}")
    try:
        committed = await client.hosts.set(host.uuid, add_tags=[tag], request_id=id_)
    except PoolClientError:
        return
    register = world.rules.register_of(host)
    assert register is not None
    world.rules.expect(register.executed.get(id_) == committed.revision, "told, and not so")


def stopped(seed: int, *, plant: Callable[[World], None] = lambda world: None) -> None:
    """A master is stopped under the calls of its clients, and goes on when another has won."""

    async def scenario(world: World) -> None:
        plant(world)
        phantom, ignite, specter = await trio(world)
        async with (
            client_of(world, "client of one", phantom) as here,
            client_of(world, "client of all", phantom, ignite, specter) as everywhere,
        ):
            phantom.freeze()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(write(world, here, ignite, "late"))
                reading = tasks.create_task(read(here, ignite))
                began = world.clock.monotonic()
                await everywhere.hosts.set(ignite.uuid, add_tags=["meanwhile"])
                took = world.clock.monotonic() - began
                world.rules.expect(took < 3.0, f"the other client waited for {took:.2f} s")
                await world.let_pass(STOPPED_SECONDS - took)
                before = everywhere.revision
                phantom.thaw()
            found = reading.result()
            world.rules.expect(
                found.stale or found.revision >= before,
                f"it answers from {found.revision} as fresh, after {before}",
            )
        await world.settle()
        world.rules.expect(phantom.mastership is None, "it has not become a member")
        register = world.rules.register_of(phantom)
        assert register is not None
        host = register.state.get(Host, ignite.uuid)
        assert host is not None
        world.rules.expect("meanwhile" in host.tags, "an acknowledged write is lost")

    play(f"stopped {seed}", scenario)


@pytest.mark.parametrize("seed", range(5))
def test_a_master_that_was_stopped_serves_nothing_of_the_past(seed: int) -> None:
    stopped(seed)


def without_barrier(world: World) -> None:
    def infect(host: SimHost) -> None:
        if host.mastership is not None:
            host.mastership.ledger.__class__ = ReadsWithoutBarrier

    world.on_role = infect


def without_compare(world: World) -> None:
    world.around = NoCompareOfHead


@pytest.mark.parametrize(
    ("bug", "told"),
    [(without_barrier, "as fresh, after"), (without_compare, "the revision fell")],
)
def test_without_barrier_or_compare_it_does(bug: Callable[[World], None], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        stopped(0, plant=bug)


def test_a_master_that_is_stopped_only_for_a_moment_goes_on() -> None:
    async def scenario(world: World) -> None:
        phantom, *_ = await trio(world)
        master = phantom.mastership
        for _ in range(5):
            phantom.freeze()
            await world.let_pass(0.3)
            phantom.thaw()
            await world.let_pass(1.0)
        assert phantom.mastership is master
        await world.settle()

    play("stopped for a moment", scenario)


def test_a_member_that_was_stopped_catches_up() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, _ = await trio(world)
        master = phantom.mastership
        ignite.freeze()
        for number in range(20):
            await world.tag(phantom, f"tag {number}")
            await world.let_pass(0.3)
        ignite.thaw()
        await world.settle()
        assert phantom.mastership is master

    play("a stopped member", scenario)
