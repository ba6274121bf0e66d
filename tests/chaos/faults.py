"""What may happen to a pool while clients use it.

A fault is a context manager: entered, it does its harm and says in words what it did; left, the
harm is over. A lane is a series of faults; lanes go on side by side, but whatever a lane harms is
harmed by nobody else meanwhile. A new kind of harm, such as a network that is cut, is one more
function in a lane, or a lane of its own.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from dataclasses import field as attribute
from random import Random

from poolclient import PoolClient, PoolClientError
from poolcore.replica import Head
from support.daemons import ProcessHost
from support.etcd import EtcdCluster, EtcdMember
from support.shared_pool import SharedPool

HELD_SECONDS = (0.1, 4.0)
"""How long a fault lasts, at least and at most."""
CALM_SECONDS = (0.5, 4.0)
"""From the end of a lane's fault to its next one."""


@dataclass(frozen=True)
class Field:
    """What faults happen to."""

    pool: SharedPool
    etcd: EtcdCluster
    heads: Sequence[Head]
    """The values that the pool's register has had so far."""
    harmed: Mapping[str, asyncio.Lock] = attribute(
        default_factory=lambda: {"daemons": asyncio.Lock(), "etcd": asyncio.Lock()}
    )
    """Held by the lane that harms it."""


Fault = Callable[[Field, Random], AbstractAsyncContextManager[str]]


def _victim(field: Field, chance: Random) -> ProcessHost:
    """A host, every other time the master."""
    other = chance.choice(field.pool.hosts)
    if chance.random() < 0.5:
        return other
    return field.pool.master_in(field.heads[-1])


@asynccontextmanager
async def daemon_killed(field: Field, chance: Random) -> AsyncIterator[str]:
    """A daemon dies."""
    host = _victim(field, chance)
    await host.kill()
    yield f"the daemon of {host.name} is killed"
    await host.start()


@asynccontextmanager
async def daemons_killed(field: Field, chance: Random) -> AsyncIterator[str]:
    """All daemons but one die at once."""
    survivor = chance.choice(field.pool.hosts)
    dying = field.pool.others(survivor)
    await asyncio.gather(*(host.kill() for host in dying))
    yield f"all daemons but that of {survivor.name} are killed"
    await asyncio.gather(*(host.start() for host in dying))


@asynccontextmanager
async def daemon_ended(field: Field, chance: Random) -> AsyncIterator[str]:
    """A daemon is told to end, as for an update."""
    host = _victim(field, chance)
    await host.stop()
    yield f"the daemon of {host.name} is ended"
    await host.start()


@asynccontextmanager
async def daemon_frozen(field: Field, chance: Random) -> AsyncIterator[str]:
    """A daemon stands still."""
    host = _victim(field, chance)
    await field.pool.freeze(host)
    yield f"the daemon of {host.name} is frozen"
    host.signal(signal.SIGCONT)


@asynccontextmanager
async def master_designated(field: Field, chance: Random) -> AsyncIterator[str]:
    """A person designates a host; how that ends depends on what else happens."""
    host = chance.choice(field.pool.hosts)
    try:
        async with PoolClient.connect(*field.pool.endpoints) as client:
            await (await client.designate_master(host.name))
    except PoolClientError as error:
        yield f"{host.name} is designated, and that fails: {error.reason}"
    else:
        yield f"{host.name} is designated"


def _members(field: Field, chance: Random, *, lost: int) -> Sequence[EtcdMember]:
    return chance.sample(field.etcd.members, lost)


async def _back(field: Field, members: Sequence[EtcdMember]) -> None:
    for member in members:
        member.start()
    for member in members:
        await field.etcd.until_answers(member)


@asynccontextmanager
async def leader_killed(field: Field, _chance: Random) -> AsyncIterator[str]:
    """The leader of etcd dies."""
    leader = await field.etcd.leader()
    leader.kill()
    yield f"etcd's leader {leader.name} is killed"
    await _back(field, [leader])


@asynccontextmanager
async def members_killed(field: Field, chance: Random) -> AsyncIterator[str]:
    """One or two members of etcd die; with two, there is no quorum."""
    members = _members(field, chance, lost=chance.choice([1, 1, 2]))
    for member in members:
        member.kill()
    yield f"etcd's {' and '.join(m.name for m in members)} are killed"
    await _back(field, members)


@asynccontextmanager
async def members_frozen(field: Field, chance: Random) -> AsyncIterator[str]:
    """One, two or all members of etcd stand still."""
    members = _members(field, chance, lost=chance.choice([1, 1, 2, 3]))
    for member in members:
        member.freeze()
    yield f"etcd's {' and '.join(m.name for m in members)} are frozen"
    for member in members:
        member.thaw()
    await asyncio.gather(*map(field.etcd.until_answers, members))


@asynccontextmanager
async def machine_frozen(field: Field, chance: Random) -> AsyncIterator[str]:
    """A machine on which a daemon and a member of etcd run stands still; so does its time."""
    host, member = _victim(field, chance), chance.choice(field.etcd.members)
    member.freeze()
    await field.pool.freeze(host)
    yield f"the daemon of {host.name} and etcd's {member.name} are frozen"
    host.signal(signal.SIGCONT)
    member.thaw()
    await field.etcd.until_answers(member)


@dataclass(frozen=True)
class Lane:
    """Faults that happen one after the other, and what they harm."""

    faults: Sequence[Fault]
    harms: frozenset[str]


LANES = (
    Lane(
        (daemon_killed, daemons_killed, daemon_ended, daemon_frozen, master_designated),
        frozenset({"daemons"}),
    ),
    Lane((leader_killed, members_killed, members_frozen), frozenset({"etcd"})),
    Lane((machine_frozen,), frozenset({"daemons", "etcd"})),
)


async def strike(lane: Lane, field: Field, chance: Random, tell: Callable[[str], None]) -> None:
    """One fault of a lane after the other, until cancelled; the last one is over then, too."""
    while True:
        await asyncio.sleep(chance.uniform(*CALM_SECONDS))
        fault, held = chance.choice(lane.faults), chance.uniform(*HELD_SECONDS)
        # Half a fault would be another one: a host that nobody starts again.
        striking = asyncio.ensure_future(  # noqa: TID251 - awaited below
            _struck(lane, fault(field, chance), field, held, tell)
        )
        try:
            await asyncio.shield(striking)
        except asyncio.CancelledError:
            await striking
            raise


async def _struck(
    lane: Lane,
    fault: AbstractAsyncContextManager[str],
    field: Field,
    held: float,
    tell: Callable[[str], None],
) -> None:
    async with AsyncExitStack() as alone:
        # In one order everywhere: two lanes never wait for each other.
        for harmed in sorted(lane.harms):
            await alone.enter_async_context(field.harmed[harmed])
        async with fault as what:
            tell(f"{what}, for {held:.1f} s")
            await asyncio.sleep(held)
        tell(f"over: {what}")
