"""Locks while masters lose their power, messages are lost and holders die: one holder at a time.

A holder here does what the client library does: it thinks it holds its lock until its time to live
has passed since it sent the last renewal that was answered.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import Lock
from poolcore.wire.codec import from_proto
from poolmanager.v1 import lock_service_pb2 as pb
from sim.host import SimHost
from sim.world import World, play

TTL_SECONDS = 4
RENEWAL_SECONDS = 1.0


class Holders:
    """Clients that want the same lock again and again, and what they have seen of it."""

    def __init__(self, world: World, hosts: list[SimHost]) -> None:
        self.world = world
        self.hosts = hosts
        self.dice = random.Random(f"{world.seed} holders")
        self.holding: dict[str, float] = {}
        """Who thinks that they hold it, and until when."""
        self.seen_token = 0
        """The highest that what the lock protects has seen."""
        self.sections = 0
        self.deaths = 0

    async def run(self, name: str, *, until: float) -> None:
        """Take the lock, work, give it up; now and then die instead."""
        clock = self.world.clock
        while clock.monotonic() < until:
            sent = clock.monotonic()
            try:
                lock = await self._acquire(name)
            except PoolError:
                await clock.sleep(self.dice.uniform(0.05, 0.5))
                continue
            self._enter(name, lock, sent)
            whole = await self._work(name, lock)
            held_until = self.holding.pop(name, 0.0)
            if whole and self.dice.random() < 0.8:
                await self._release(lock, held_until)
            else:
                self.deaths += 1

    def _enter(self, name: str, lock: Lock, sent: float) -> None:
        now = self.world.clock.monotonic()
        if now >= sent + TTL_SECONDS:
            return
        others = [who for who, until in self.holding.items() if who != name and until > now]
        assert others == [], f"{name} got the lock while {others} had it"
        assert lock.token > self.seen_token, "a later holder's token is higher"
        self.seen_token = lock.token
        self.holding[name] = sent + TTL_SECONDS
        self.sections += 1

    async def _work(self, name: str, lock: Lock) -> bool:
        """Hold the lock for a while; whether it was held to the end."""
        clock = self.world.clock
        end = clock.monotonic() + self.dice.uniform(0.1, 8.0)
        while (now := clock.monotonic()) < min(end, self.holding.get(name, now)):
            await clock.sleep(min(RENEWAL_SECONDS, end - now))
            sent = clock.monotonic()
            try:
                await self._ask("RenewLock", pb.RenewLockRequest(lock=lock.uuid))
            except PoolError as error:
                if error.reason is Reason.LOCK_LOST:
                    assert clock.monotonic() >= self.holding[name], "it was lost before its time"
                    return False
            else:
                self.holding[name] = sent + TTL_SECONDS
        return clock.monotonic() >= end

    async def _acquire(self, name: str) -> Lock:
        asked = self.world.new_request(self.hosts[0])
        request = pb.AcquireLockRequest(
            request_id=asked, name="nightly", holder=name, ttl_seconds=TTL_SECONDS
        )
        try:
            answer = await self._ask("AcquireLock", request)
        except PoolError as error:
            if error.reason in {Reason.LOCK_HELD, Reason.LOCK_LOST}:
                raise
            # Asked once more with the same id: it finds what it took, if it did.
            await self.world.clock.sleep(0.2)
            answer = await self._ask("AcquireLock", request)
        lock: Lock = from_proto(answer.lock)
        return lock

    async def _release(self, lock: Lock, held_until: float) -> None:
        request = pb.ReleaseLockRequest(
            request_id=self.world.new_request(self.hosts[0]), lock=lock.uuid
        )
        try:
            await self._ask("ReleaseLock", request)
        except PoolError as error:
            ran_out = held_until <= self.world.clock.monotonic()
            if error.reason is Reason.LOCK_LOST and not ran_out:
                raise

    async def _ask(self, method: str, request: object) -> pb.AcquireLockResponse:
        host = self.dice.choice(self.hosts)
        try:
            async with asyncio.timeout(RENEWAL_SECONDS):
                answer: pb.AcquireLockResponse = await self.world.ask(
                    host, f"LockService/{method}", request
                )
                return answer
        except TimeoutError:
            raise PoolError(Reason.DEADLINE_PASSED, seconds=f"{RENEWAL_SECONDS:g}") from None


def held_in(world: World, host: SimHost) -> set[str]:
    register = world.rules.own_register(host)
    return set() if register is None else {lock.uuid for lock in register.state.all(Lock)}


@pytest.mark.parametrize("seed", range(6))
def test_a_lock_has_one_holder_at_a_time_whatever_becomes_of_the_master(seed: int) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        await world.join(phantom, ignite)
        await world.settle()
        holders = Holders(world, [phantom, ignite])
        until = world.clock.monotonic() + 120.0
        async with asyncio.TaskGroup() as tasks:
            for name in ("ops", "cron", "night shift"):
                tasks.create_task(holders.run(name, until=until))
            while world.clock.monotonic() < until:
                await world.let_pass(world.dice.uniform(1.0, 12.0))
                match world.dice.randrange(3):
                    case 0:
                        phantom.cut_power()
                        await world.let_pass(world.dice.uniform(0.0, 6.0))
                        phantom.power_on()
                    case 1:
                        world.network.cut(phantom.endpoint, ignite.endpoint)
                        await world.let_pass(world.dice.uniform(0.0, 6.0))
                        world.network.heal(phantom.endpoint, ignite.endpoint)
                    case _:
                        pass
        assert holders.sections >= 5
        assert holders.deaths >= 1
        await world.settle()
        await world.let_pass(TTL_SECONDS + 2.0)
        assert held_in(world, phantom) == set(), "the dead hold nothing for ever"

    play(f"locks {seed}", scenario)


def test_a_lock_outlives_the_power_of_the_master_and_its_holder_goes_on() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        await world.join(phantom, ignite)
        await world.settle()
        request = pb.AcquireLockRequest(
            request_id=world.new_request(phantom), name="nightly", holder="ops", ttl_seconds=30
        )
        answer = await world.ask(ignite, "LockService/AcquireLock", request)
        phantom.cut_power()
        await world.let_pass(20.0)
        phantom.power_on()
        await world.settle()
        await world.let_pass(15.0)
        renewal = pb.RenewLockRequest(lock=answer.lock.uuid)
        renewed = await world.ask(ignite, "LockService/RenewLock", renewal)
        assert renewed.lock == answer.lock
        await world.let_pass(32.0)
        assert held_in(world, phantom) == set()

    play("locks and power", scenario)
