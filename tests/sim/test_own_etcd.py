"""Power cuts at every step of a move of the store: into the pool's own etcd, and out of it again.

Afterwards all goes on in one store, whatever was cut when; nothing that was acknowledged is
missing (`sim.register`), and in the end the move has been made.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest

from poolcore.errors import PoolError, Reason
from poolmanager.v1 import host_service_pb2 as host_pb
from poolmaster.operations.found_etcd import FoundEtcd
from poolmaster.operations.leave_etcd import LeaveEtcd
from poolmaster.operations.steps import Step
from sim.host import SimHost
from sim.pairs import check_kept, state_of
from sim.world import Crash, World, is_refused, play

MOMENTS = ("before", "unanswered", "after")
NAMES = ("phantom", "ignite", "specter")
AGAIN_SECONDS = 200.0
"""A move that has failed is tried again after two minutes."""
PAUSE_SECONDS = 0.2


def crashes(name: str, steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Every point and moment of a move."""
    recorded = [f"{name}:{step}" for step in (*(step.name for step in steps), "done")]
    moments = [(point, moment) for point in recorded for moment in MOMENTS]
    concluded = [("pool.succession:concluded", moment) for moment in ("before", "unanswered")]
    founded = [(f"pool.succession:{point}", "after") for point in ("ended", "founded")]
    return [*moments, *concluded, *founded]


def victims(world: World) -> tuple[str, ...]:
    """The master, or any of the hosts, or several."""
    return tuple(world.dice.sample(NAMES, world.dice.choice([1, 1, 2, 3])))


async def trio(world: World) -> list[SimHost]:
    """A pool whose store is at phantom, and that is about to found its etcd."""
    hosts = world.add(*NAMES, votes=True)
    await world.settle()
    for host in hosts[1:]:
        await world.join(hosts[0], host)
    return hosts


def in_etcd(world: World, host: SimHost) -> bool:
    return state_of(world, host).pool.voters is not None


async def written_until(
    world: World, hosts: Sequence[SimHost], seconds: float, acknowledged: dict[str, int]
) -> None:
    """Write through random hosts, as far as they take it."""
    end = world.clock.monotonic() + seconds
    while world.clock.monotonic() < end:
        tag = f"at {world.clock.monotonic():.3f}"
        host = world.dice.choice(hosts)
        if host.life is not None:
            with suppress(PoolError):
                acknowledged[tag] = await world.tag(host, tag)
        await world.let_pass(PAUSE_SECONDS)


async def restarted(world: World, crash: Crash, acknowledged: dict[str, int]) -> None:
    """Let a crash happen, if it comes to it, and everything come back after a while."""
    hosts = [world.hosts[name] for name in NAMES]
    for _ in range(10):
        if crash.happened:
            break
        await written_until(world, hosts, 2.0, acknowledged)
    await world.let_pass(world.dice.choice([0.1, 1.0, 5.0]))
    await world.settle()


@pytest.mark.parametrize(("point", "moment"), crashes(FoundEtcd.name, FoundEtcd.steps))
@pytest.mark.parametrize("seed", range(2))
def test_power_is_cut_while_the_store_moves_into_etcd(point: str, moment: str, seed: int) -> None:
    async def scenario(world: World) -> None:
        hosts = await trio(world)
        acknowledged: dict[str, int] = {}
        world.crash = Crash(point, moment, victims(world))
        await restarted(world, world.crash, acknowledged)
        assert world.crash.happened
        await world.until(lambda: in_etcd(world, hosts[0]), seconds=AGAIN_SECONDS)
        await world.settle()
        await written_until(world, hosts, 1.0, acknowledged)
        check_kept(world, hosts[0], acknowledged)

    play(f"into etcd {point} {moment} {seed}", scenario)


@pytest.mark.parametrize(("point", "moment"), crashes(LeaveEtcd.name, LeaveEtcd.steps))
@pytest.mark.parametrize("seed", range(2))
def test_power_is_cut_while_the_store_leaves_etcd(point: str, moment: str, seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        await world.until(lambda: in_etcd(world, phantom), seconds=AGAIN_SECONDS)
        await world.settle()
        acknowledged: dict[str, int] = {}
        await written_until(world, [phantom, ignite, specter], 1.0, acknowledged)
        lost = world.dice.choice([h for h in (phantom, ignite, specter) if h.mastership is None])
        left = [h for h in (phantom, ignite, specter) if h is not lost]
        lost.cut_power()
        master = next(h for h in left if h.mastership is not None)
        await world.let_pass(5.0)
        world.crash = Crash(point, moment, tuple(world.dice.sample([h.name for h in left], 1)))
        await forgotten(world, master, lost)
        del world.hosts[lost.name]
        for _ in range(10):
            if world.crash.happened:
                break
            await written_until(world, left, 2.0, acknowledged)
        assert world.crash.happened
        await world.let_pass(world.dice.choice([0.1, 1.0, 5.0]))
        await world.settle()
        await world.until(lambda: not in_etcd(world, left[0]), seconds=AGAIN_SECONDS)
        await world.settle()
        await world.until(lambda: all(host.disk.voter is None for host in left))
        await written_until(world, left, 1.0, acknowledged)
        check_kept(world, left[0], acknowledged)

    play(f"out of etcd {point} {moment} {seed}", scenario)


def test_a_host_that_is_replaced_within_seconds_does_not_have_the_store_moved() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await trio(world)
        await world.until(lambda: in_etcd(world, phantom), seconds=AGAIN_SECONDS)
        await world.settle()
        life = state_of(world, phantom).incarnation
        (vector,) = world.add("vector", votes=True)
        specter.cut_power()
        await world.let_pass(5.0)
        master = next(host for host in (phantom, ignite) if host.mastership is not None)
        await forgotten(world, master, specter)
        del world.hosts[specter.name]
        await world.let_pass(5.0)
        await world.join(master, vector)
        await world.until(lambda: voting(world, phantom) == 3, seconds=60.0)
        assert state_of(world, phantom).incarnation == life

    play("replaced in time", scenario)


def voting(world: World, host: SimHost) -> int:
    """How many vote, as the host says."""
    voters = state_of(world, host).pool.voters
    return 0 if voters is None else len(voters.hosts)


async def forgotten(world: World, master: SimHost, lost: SimHost) -> None:
    """A person vouches that a host is gone for good."""
    dead = host_pb.DeclareHostDeadRequest(host=lost.name, request_id=world.new_request(master))
    await world.ask(master, "HostService/DeclareHostDead", dead)
    gone = host_pb.ForgetHostRequest(host=lost.name, request_id=world.new_request(master))
    await world.ask(master, "HostService/ForgetHost", gone)


@pytest.mark.parametrize("seed", range(10))
def test_a_master_that_is_lost_right_after_the_move_is_replaced_by_those_that_vote(
    seed: int,
) -> None:
    async def scenario(world: World) -> None:
        hosts = await trio(world)
        phantom, ignite, specter = hosts
        world.crash = Crash("pool.succession:founded", "after", ("phantom",))
        await world.until(lambda: world.crash is not None and world.crash.happened)
        # Nobody but phantom was told of the move: those that vote find the register.
        await world.until(lambda: ignite.mastership or specter.mastership, seconds=30.0)
        other = ignite if ignite.mastership else specter
        acknowledged = {"without phantom": await world.tag(other, "without phantom")}
        await world.settle()
        check_kept(world, phantom, acknowledged)

    play(f"lost after the move {seed}", scenario)


def test_a_voter_that_is_left_alone_right_after_the_move_says_what_may_be_missing() -> None:
    async def scenario(world: World) -> None:
        _, ignite, _ = await trio(world)
        world.crash = Crash("pool.succession:founded", "after", ("phantom", "specter"))
        await world.until(lambda: world.crash is not None and world.crash.happened)
        await world.let_pass(3.0)
        # By its replica it is in step, but the store has moved since.
        with pytest.raises(PoolError) as refused:
            await world.emergency(ignite)
        assert is_refused(refused.value, Reason.LOSS_NOT_ACCEPTED)
        await world.emergency(ignite, accept_loss=True)
        await world.until(lambda: ignite.mastership is not None)
        acknowledged = {"alone": await world.tag(ignite, "alone")}
        await world.settle()
        check_kept(world, ignite, acknowledged)

    play("left alone after the move", scenario)
