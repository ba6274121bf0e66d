"""Hosts that were replaced while they were down: none of them leads, whoever has replaced it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from poolcore.errors import PoolError, Reason
from poolmanager.v1 import host_service_pb2 as host_pb
from poolmember.identity import Member
from poolmember.returning import ASK_SECONDS
from sim.host import SimHost
from sim.pairs import (
    BeforeLastCommit,
    NotFoundedAtOnce,
    check_kept,
    in_step_with,
    masters,
    pair,
    register_of,
    state_of,
    tell_to_lead,
    written,
)
from sim.world import Crash, World, is_refused, play


@pytest.mark.parametrize("seed", range(20))
def test_a_former_master_that_starts_together_with_the_new_one_does_not_lead(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)
        phantom.cut_power()
        assert await tell_to_lead(world, ignite)
        acknowledged["afterwards"] = await world.tag(ignite, "afterwards")
        ignite.cut_power()
        first, second = world.dice.sample([phantom, ignite], 2)
        first.power_on()
        await world.let_pass(world.dice.choice([0.0, 0.001, 0.005, 0.02]))
        second.power_on()
        await world.settle()
        assert masters(world) == [ignite]
        check_kept(world, phantom, acknowledged)

    play(f"both start {seed}", scenario)


def test_an_heir_that_was_given_up_before_its_first_commit_comes_back_as_a_member() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)
        # It has founded its store, and is lost before the old master learns of that.
        world.crash = Crash("pool.succession:founded", "after", ("ignite",))
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        await world.let_pass(3.0)
        # A person takes the old master for the one to go on, whatever the other one had.
        await world.emergency(phantom, accept_loss=True)
        await world.until(lambda: phantom.mastership is not None)
        acknowledged["afterwards"] = await world.tag(phantom, "afterwards")
        await world.settle()
        assert masters(world) == [phantom]
        check_kept(world, ignite, acknowledged)

    play("heir given up", scenario)


@pytest.mark.parametrize("founded", [True, False])
def test_an_heir_that_was_down_waits_for_the_former_master(founded: bool) -> None:
    async def scenario(world: World) -> None:
        refusals: list[str] = []
        world.around = lambda inner: NotFoundedAtOnce(inner, refusals)
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)
        if founded:
            world.crash = Crash("pool.succession:founded", "after", ("ignite",))
        else:
            refusals.append("the disk is full")
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: world.crash.happened if world.crash else not refusals)
        ignite.cut_power()
        await world.let_pass(3.0)
        # A person takes the old master for the one to go on, and it is lost, too.
        await world.emergency(phantom, accept_loss=True)
        await world.until(lambda: phantom.mastership is not None)
        acknowledged["afterwards"] = await world.tag(phantom, "afterwards")
        phantom.cut_power()
        ignite.power_on()
        await world.let_pass(10.0)
        assert masters(world) == []
        # Nor does it go on without a word when it is told to.
        with pytest.raises(PoolError) as refused:
            await world.emergency(ignite)
        assert is_refused(refused.value, Reason.LOSS_NOT_ACCEPTED)
        phantom.power_on()
        await world.settle()
        assert masters(world) == [phantom]
        check_kept(world, ignite, acknowledged)

    play(f"heir was down {founded}", scenario)


def test_an_heir_whose_disk_was_silent_waits_for_the_former_master() -> None:
    async def scenario(world: World) -> None:
        happens: list[Callable[[], None]] = []
        world.around = lambda inner: BeforeLastCommit(inner, happens)
        phantom, ignite = await pair(world)

        def lose_the_disk() -> None:
            ignite.disk.silent, ignite.disk.failed_syncs = True, 1

        happens.append(lose_the_disk)
        acknowledged = await written(world, phantom)
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: ignite.disk.silent and not ignite.disk.failed_syncs)
        # What it cannot read makes it the heir.
        assert ignite.disk.replica is not None
        assert ignite.disk.replica.state is not None
        heir = ignite.disk.replica.state.incarnation
        # A person takes the old master for the one to go on, and it is lost, too.
        await world.let_pass(3.0)
        await world.emergency(phantom, accept_loss=True)
        await world.until(lambda: phantom.mastership is not None)
        assert state_of(world, phantom).incarnation != heir
        acknowledged["afterwards"] = await world.tag(phantom, "afterwards")
        phantom.cut_power()
        ignite.disk.silent = False
        await world.let_pass(10.0)
        assert masters(world) == []
        phantom.power_on()
        await world.settle()
        assert masters(world) == [phantom]
        check_kept(world, ignite, acknowledged)

    play("silent disk of an heir", scenario)


async def three(world: World) -> tuple[SimHost, SimHost, SimHost]:
    """Three hosts, the first of them master, the third in step."""
    phantom, ignite = await pair(world)
    (specter,) = world.add("specter")
    await world.settle()
    await world.join(phantom, specter)
    ignite.cut_power()
    await world.until(lambda: in_step_with(phantom) == specter.uuid)
    ignite.power_on()
    await world.settle()
    return phantom, ignite, specter


def test_a_person_s_choice_counts_past_a_handover_that_was_begun_though_others_are_older() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await three(world)
        world.network.cut(specter.endpoint, ignite.endpoint)
        await world.designate(phantom, ignite)
        await world.until(lambda: in_step_with(ignite) == phantom.uuid)
        acknowledged = await written(world, ignite)
        # It gives the store back, and is lost before phantom hears of that.
        world.crash = Crash("pool.succession:concluded", "unanswered", ("ignite",))
        with suppress(PoolError):
            await world.designate(ignite, phantom)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        begun = register_of(world, phantom).state.incarnation
        # All that the third host, which answers, knows of is the first incarnation.
        assert await tell_to_lead(world, phantom)
        await world.until(lambda: phantom.mastership is not None)
        assert state_of(world, phantom).incarnation.counter > begun.counter
        world.network.heal()
        ignite.power_on()
        await world.settle()
        assert masters(world) == [phantom]
        check_kept(world, phantom, acknowledged)

    play("counts past a handover", scenario)


@pytest.mark.parametrize("point", ["pool.succession:founded", "pool.designate_master:done"])
def test_an_heir_that_was_down_waits_for_the_host_that_was_in_step_before(point: str) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await three(world)
        acknowledged = await written(world, phantom)
        # It does not hear of the handover.
        world.network.cut(specter.endpoint, ignite.endpoint)
        world.crash = Crash(point, "after", ("phantom", "ignite"))
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        world.network.heal()
        assert await tell_to_lead(world, specter)
        acknowledged["afterwards"] = await world.tag(specter, "afterwards")
        specter.cut_power()
        phantom.power_on()
        ignite.power_on()
        await world.let_pass(10.0)
        assert masters(world) == []
        specter.power_on()
        await world.settle()
        assert masters(world) == [specter]
        check_kept(world, ignite, acknowledged)

    play(f"heir was down, third host, {point}", scenario)


def test_a_host_that_cedes_its_store_follows_whoever_leads_though_the_heir_is_gone() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await three(world)
        world.network.cut(specter.endpoint, ignite.endpoint)
        world.crash = Crash("pool.succession:founded", "after", ("phantom", "ignite"))
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        assert await tell_to_lead(world, specter)
        phantom.power_on()
        await world.until(lambda: isinstance(phantom.membership, Member), seconds=10.0)
        assert masters(world) == [specter]

    play("the heir is gone", scenario)


def test_a_handover_that_everybody_has_heard_of_is_over() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await three(world)
        await world.designate(phantom, ignite)
        await world.until(lambda: ignite.mastership is not None)
        register = register_of(world, ignite)
        begins = register.states[state_of(world, ignite).incarnation.forked_at + 1]
        assert begins.pool.was_in_step == specter.uuid
        await world.until(lambda: register.state.pool.was_in_step is None)

    play("heard of the handover", scenario)


def test_a_host_that_has_neither_store_nor_replica_keeps_nobody_from_leading() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        (specter,) = world.add("specter")
        await world.settle()
        world.crash = Crash("host.join:committed", "after", ("specter",))
        await world.add_host(phantom, specter)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        world.crash = Crash("pool.succession:founded", "after", ("phantom", "ignite"))
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        await world.settle()
        assert masters(world) == [ignite]

    play("heir was down during a join", scenario)


def test_a_partner_that_has_left_the_pool_since_says_nothing_of_it() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        (specter,) = world.add("specter")
        await world.settle()
        await world.join(phantom, specter)
        phantom.cut_power()
        assert await tell_to_lead(world, ignite)
        await world.until(lambda: in_step_with(ignite) == specter.uuid)
        await world.designate(ignite, specter)
        await world.until(lambda: in_step_with(specter) == ignite.uuid)
        pool = state_of(world, specter).pool.uuid
        await world.eject(specter, ignite)
        await world.until(lambda: ignite.membership is not None and ignite.membership.pool != pool)
        acknowledged = {"afterwards": await world.tag(specter, "afterwards")}
        specter.cut_power()
        phantom.power_on()
        await world.let_pass(10.0)
        assert phantom.mastership is None
        specter.power_on()
        await world.until(lambda: specter.mastership is not None)
        await world.settle()
        assert phantom.mastership is None
        check_kept(world, phantom, acknowledged)

    play("the partner has left", scenario)


def test_a_waiting_heir_believes_the_master_that_it_is_told_of() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        (specter,) = world.add("specter")
        await world.settle()
        world.crash = Crash("pool.succession:founded", "after", ("ignite",))
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        ignite.cut_power()
        await world.let_pass(3.0)
        await world.emergency(phantom, accept_loss=True)
        await world.until(lambda: phantom.mastership is not None)
        dead = host_pb.DeclareHostDeadRequest(host="ignite", request_id=world.new_request(phantom))
        await world.ask(phantom, "HostService/DeclareHostDead", dead)
        gone = host_pb.ForgetHostRequest(host="ignite", request_id=world.new_request(phantom))
        await world.ask(phantom, "HostService/ForgetHost", gone)
        await world.join(phantom, specter)
        await world.until(lambda: in_step_with(phantom) == specter.uuid)
        await world.designate(phantom, specter)
        await world.until(lambda: specter.mastership is not None)
        phantom.cut_power()
        # All that it knows is a host that does not come any more.
        ignite.power_on()
        await world.let_pass(5.0)
        assert ignite.life is not None
        assert ignite.life.parts.forgotten is None
        with suppress(PoolError):
            await world.reset_master(ignite, specter)
        await world.until(
            lambda: ignite.life is not None and ignite.life.parts.forgotten is not None
        )

    play("told of the master", scenario)


def test_a_host_that_was_ejected_and_has_not_heard_does_not_say_that_it_was_in_step() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await three(world)
        world.crash = Crash("host.eject:evicted", "after", ("phantom", "specter"))
        with suppress(PoolError):
            await world.eject(phantom, specter)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        ignite.cut_power()
        specter.power_on()
        await world.let_pass(1.0)
        with pytest.raises(PoolError) as refused:
            await world.emergency(specter)
        assert is_refused(refused.value, Reason.LOSS_NOT_ACCEPTED)

    play("ejected and not told", scenario)


def test_who_has_the_address_of_a_host_that_is_waited_for_does_not_speak_for_it() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await three(world)
        acknowledged = await written(world, phantom)
        phantom.cut_power()
        world.network.cut(specter.endpoint, ignite.endpoint)
        assert await tell_to_lead(world, specter)
        acknowledged["afterwards"] = await world.tag(specter, "afterwards")
        specter.cut_power()
        assert ignite.life is not None
        world.network.listening[specter.endpoint] = ignite.life
        phantom.power_on()
        await world.let_pass(10.0)
        assert masters(world) == []
        del world.network.listening[specter.endpoint]
        specter.power_on()
        await world.settle()
        assert masters(world) == [specter]
        check_kept(world, phantom, acknowledged)

    play("the address of another", scenario)


def test_a_former_master_that_is_told_of_its_successor_does_not_wait_for_who_is_silent() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = await three(world)
        phantom.cut_power()
        assert await tell_to_lead(world, specter)
        await world.until(lambda: specter.mastership is not None)
        ignite.freeze()
        started = world.clock.monotonic()
        phantom.power_on()
        await world.until(lambda: isinstance(phantom.membership, Member))
        assert world.clock.monotonic() - started < ASK_SECONDS

    play("one is silent", scenario)
