"""What may happen to a pool while clients use it.

A fault is a context manager: entered, it does its harm and says in words what it did; left, the
harm is over. A lane is a series of faults; lanes go on side by side, but whatever a lane harms is
harmed by nobody else meanwhile. A new kind of harm is one more function in a lane, or a lane of its
own.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from dataclasses import field as attribute
from random import Random

from poolclient import PoolClient, PoolClientError
from poolcore.replica import Head
from support.netlab.host import NetHost
from support.netlab.lab import NetLab
from support.shared_pool import SharedPool

HELD_SECONDS = (0.1, 4.0)
"""How long a fault lasts, at least and at most."""
CALM_SECONDS = (0.5, 4.0)
"""From the end of a lane's fault to its next one."""


@dataclass(frozen=True)
class Field:
    """What faults happen to."""

    lab: NetLab
    pool: SharedPool
    heads: Sequence[Head]
    """The values that the pool's register has had so far."""
    harmed: Mapping[str, asyncio.Lock] = attribute(
        default_factory=lambda: {what: asyncio.Lock() for what in ("daemons", "etcd", "network")}
    )
    """Held by the lane that harms it."""

    @property
    def hosts(self) -> Sequence[NetHost]:
        """All of them."""
        return self.lab.hosts

    def victim(self, chance: Random) -> NetHost:
        """A host, every other time the master."""
        other = chance.choice(self.hosts)
        if chance.random() < 0.5:
            return other
        return self.lab.known(self.pool.master_in(self.heads[-1]))

    def some(self, chance: Random, *, least: int = 1) -> Sequence[NetHost]:
        """At least so many hosts, in any order; most often few."""
        sizes = range(least, len(self.hosts) + 1)
        (size,) = chance.choices(sizes, [1 / (1 + size - least) for size in sizes])
        return chance.sample(self.hosts, size)


Fault = Callable[[Field, Random], AbstractAsyncContextManager[str]]


def _names(hosts: Iterable[NetHost]) -> str:
    return " and ".join(host.name for host in hosts)


# -- daemons --------------------------------------------------------------------------------------


@asynccontextmanager
async def daemon_killed(field: Field, chance: Random) -> AsyncIterator[str]:
    """A daemon dies."""
    host = field.victim(chance)
    await host.kill_daemon()
    yield f"the daemon of {host.name} is killed"
    await host.start()


@asynccontextmanager
async def daemons_killed(field: Field, chance: Random) -> AsyncIterator[str]:
    """All daemons but one die at once."""
    survivor = chance.choice(field.hosts)
    dying = field.lab.others(survivor)
    await asyncio.gather(*(host.kill_daemon() for host in dying))
    yield f"all daemons but that of {survivor.name} are killed"
    await asyncio.gather(*(host.start() for host in dying))


@asynccontextmanager
async def daemon_ended(field: Field, chance: Random) -> AsyncIterator[str]:
    """A daemon is told to end, as for an update."""
    host = field.victim(chance)
    await host.stop()
    yield f"the daemon of {host.name} is ended"
    await host.start()


@asynccontextmanager
async def daemon_frozen(field: Field, chance: Random) -> AsyncIterator[str]:
    """A daemon stands still."""
    host = field.victim(chance)
    host.signal(signal.SIGSTOP)
    yield f"the daemon of {host.name} is frozen"
    host.signal(signal.SIGCONT)


@asynccontextmanager
async def master_designated(field: Field, chance: Random) -> AsyncIterator[str]:
    """A person designates a host; how that ends depends on what else happens."""
    host = chance.choice(field.hosts)
    try:
        async with PoolClient.connect(*field.pool.endpoints) as client:
            await (await client.designate_master(host.name))
    except PoolClientError as error:
        yield f"{host.name} is designated, and that fails: {error.reason}"
    else:
        yield f"{host.name} is designated"


# -- etcd -----------------------------------------------------------------------------------------


@asynccontextmanager
async def leader_killed(field: Field, _chance: Random) -> AsyncIterator[str]:
    """The leader of etcd dies."""
    leader = await field.lab.etcd_leader()
    leader.etcd.kill()
    yield f"etcd's leader on {leader.name} is killed"
    leader.etcd.start()


@asynccontextmanager
async def members_killed(field: Field, chance: Random) -> AsyncIterator[str]:
    """Some members of etcd die, and perhaps the quorum with them."""
    hosts = field.some(chance)
    for host in hosts:
        host.etcd.kill()
    yield f"etcd on {_names(hosts)} is killed"
    for host in hosts:
        host.etcd.start()


@asynccontextmanager
async def members_frozen(field: Field, chance: Random) -> AsyncIterator[str]:
    """Some members of etcd stand still."""
    hosts = field.some(chance)
    for host in hosts:
        host.etcd.signal(signal.SIGSTOP)
    yield f"etcd on {_names(hosts)} is frozen"
    for host in hosts:
        host.etcd.signal(signal.SIGCONT)


# -- hosts with everything on them ----------------------------------------------------------------


@asynccontextmanager
async def host_frozen(field: Field, chance: Random) -> AsyncIterator[str]:
    """A host stands still."""
    host = field.victim(chance)
    await host.freeze()
    yield f"{host.name} is frozen"
    host.thaw()


@asynccontextmanager
async def hosts_killed(field: Field, chance: Random) -> AsyncIterator[str]:
    """Some or all hosts lose their power, and start in any order."""
    hosts = field.some(chance)
    await asyncio.gather(*(host.kill() for host in hosts))
    yield f"{_names(hosts)} lost power"
    await asyncio.gather(*(host.start() for host in chance.sample(hosts, len(hosts))))


@asynccontextmanager
async def disk_filled(field: Field, chance: Random) -> AsyncIterator[str]:
    """A host's disk is full; its etcd may end of that."""
    host = field.victim(chance)
    host.fill_disk()
    yield f"the disk of {host.name} is full"
    host.free_disk()
    host.etcd.start()


# -- the network ----------------------------------------------------------------------------------


@asynccontextmanager
async def host_isolated(field: Field, chance: Random) -> AsyncIterator[str]:
    """A host hears and is heard by clients only."""
    host = field.victim(chance)
    field.lab.isolate(host)
    yield f"{host.name} is cut off from the other hosts"
    field.lab.heal()


@asynccontextmanager
async def hosts_parted(field: Field, chance: Random) -> AsyncIterator[str]:
    """Two groups of hosts do not hear each other."""
    hosts = chance.sample(field.hosts, chance.randrange(1, len(field.hosts)))
    field.lab.isolate(*hosts)
    yield f"{_names(hosts)} and {_names(field.lab.others(*hosts))} are cut off from each other"
    field.lab.heal()


@asynccontextmanager
async def all_parted(field: Field, _chance: Random) -> AsyncIterator[str]:
    """No host hears another one."""
    for host in field.hosts:
        field.lab.isolate(host)
    yield "no host hears another one"
    field.lab.heal()


@asynccontextmanager
async def link_cut(field: Field, chance: Random) -> AsyncIterator[str]:
    """Two hosts do not hear each other; others hear both."""
    one, other = chance.sample(field.hosts, 2)
    field.lab.cut(one, other)
    yield f"{one.name} and {other.name} are cut off from each other"
    field.lab.heal()


@asynccontextmanager
async def answers_lost(field: Field, chance: Random) -> AsyncIterator[str]:
    """A host is heard by another one, and does not hear that."""
    host = field.victim(chance)
    other = chance.choice(field.lab.others(host))
    field.lab.cut_one_way(other, host)
    yield f"{host.name} does not hear {other.name}"
    field.lab.heal()


@asynccontextmanager
async def host_deaf(field: Field, chance: Random) -> AsyncIterator[str]:
    """A host hears no other one, and is heard."""
    host = field.victim(chance)
    for other in field.lab.others(host):
        field.lab.cut_one_way(other, host)
    yield f"{host.name} hears no other host"
    field.lab.heal()


@asynccontextmanager
async def host_mute(field: Field, chance: Random) -> AsyncIterator[str]:
    """A host is heard by no other one, and hears them."""
    host = field.victim(chance)
    for other in field.lab.others(host):
        field.lab.cut_one_way(host, other)
    yield f"{host.name} is heard by no other host"
    field.lab.heal()


@asynccontextmanager
async def cable_pulled(field: Field, chance: Random) -> AsyncIterator[str]:
    """Not even clients reach a host."""
    host = field.victim(chance)
    field.lab.link_down(host)
    yield f"the cable of {host.name} is pulled"
    field.lab.link_up(host)


# -- all of them ----------------------------------------------------------------------------------


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
    Lane((host_frozen, hosts_killed, disk_filled), frozenset({"daemons", "etcd"})),
    Lane(
        (
            host_isolated,
            hosts_parted,
            all_parted,
            link_cut,
            answers_lost,
            host_deaf,
            host_mute,
            cable_pulled,
        ),
        frozenset({"network"}),
    ),
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
