"""Hosts of a pool on a network that can be cut: namespaces, cables and a switch.

    phantom (10.7.0.1)     ignite (10.7.0.2)     specter (10.7.0.3)    a network namespace each:
      etcd, daemon           etcd, daemon          etcd, daemon        its packet filter, its disk
          |                      |                     |
          +-------------- bridge “lan” ----------------+               a network namespace
                                 |
                         the test (10.7.0.253)                         namespaces of its own

A fault is one call, and says nothing to anybody who suffers from it. A cut is between hosts: the
test goes on reaching all whose cable is plugged in.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from poolcore.clock import SystemClock
from poolmaster.store.etcd.cluster import Cluster
from poolmember.etcd.member import EtcdMember
from support.daemons import ProcessHost
from support.etcd import leading
from support.lab_network import Switch
from support.netlab import own_namespaces
from support.netlab.host import DISK_MIB, OWN_ETCD_DISK_MIB, NetHost
from support.own_etcd import VotingPool
from support.shared_pool import SharedPool, join_all, pool_at

NAMES = ("phantom", "ignite", "specter", "revenant", "wraith")
TEST_ADDRESS = "10.7.0.253"

# Ends what is on the hosts when nobody holds the other end of its input any more: whatever becomes
# of the test process, nothing is left.
_GUARD = """
cat
for host; do
    while pids=$(ip netns pids "$host") && [ -n "$pids" ]; do kill -KILL $pids; done
done
"""


class NetLab:
    """`size` hosts of a pool that are wired up and switched off; see `running_lab`."""

    def __init__(
        self,
        folder: Path,
        *,
        size: int = 3,
        spares: int = 0,
        own_etcd: bool = False,
        disk_mib: int | None = None,
    ) -> None:
        names = NAMES[: size + spares]
        addresses = {name: f"10.7.0.{number}" for number, name in enumerate(names, start=1)}
        self._own_etcd = own_etcd
        given = {} if own_etcd else _members({name: addresses[name] for name in names[:size]})
        self.wired_hosts = tuple(
            NetHost(
                name,
                address,
                folder / name,
                options=("--insecure", "--voter") if own_etcd else ("--insecure",),
                member=given.get(name),
                disk_mib=disk_mib or (OWN_ETCD_DISK_MIB if own_etcd else DISK_MIB),
            )
            for name, address in addresses.items()
        )
        self.hosts = self.wired_hosts[:size]
        """Those that are to be the pool."""
        self.spares = self.wired_hosts[size:]
        """Those that may be taken into it."""
        keepers = self.wired_hosts if own_etcd else self.hosts
        self.etcd_addresses = tuple(host.etcd.client for host in keepers)
        self.store_url = f"etcd:{','.join(self.etcd_addresses)}"
        if not own_etcd:
            founder = self.hosts[0]
            founder.options = (*founder.options, f"--store={self.store_url}")
        self._switch = Switch("switch")

    @asynccontextmanager
    async def wired(self) -> AsyncIterator[None]:
        """Make everything the hosts need, and remove it with all that runs on them."""
        async with AsyncExitStack() as undo:
            undo.callback(self._switch.remove)
            self._switch.create()
            self._switch.plug(own_namespaces.NAME, TEST_ADDRESS)
            undo.callback(self._switch.unplug, TEST_ADDRESS)
            for host in self.wired_hosts:
                host.create()
                undo.callback(host.remove)
                self._switch.plug(host.name, host.address)
                undo.callback(self._switch.unplug, host.address)
            undo.callback(self._guard().communicate)
            for host in self.wired_hosts:
                undo.push_async_callback(host.close)
            yield

    def _guard(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", *(host.name for host in self.wired_hosts)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    # -- faults -----------------------------------------------------------------------------------

    def cut(self, one: NetHost, other: NetHost) -> None:
        """Nothing gets from one to the other any more, in both directions."""
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def cut_one_way(self, sender: NetHost, receiver: NetHost) -> None:
        """Nothing gets from `sender` to `receiver` any more."""
        receiver.unhear(sender)

    def isolate(self, *hosts: NetHost) -> None:
        """Cut these hosts off from all others, not from each other."""
        for host in hosts:
            for other in self.wired_hosts:
                if other not in hosts:
                    self.cut(host, other)

    def heal(self) -> None:
        """Undo all cuts."""
        for host in self.wired_hosts:
            host.hear_all()

    def link_down(self, host: NetHost) -> None:
        """Pull a host's cable out of the switch: the test does not reach it any more either."""
        self._switch.disconnect(host.address)

    def link_up(self, host: NetHost) -> None:
        """Plug it in again."""
        self._switch.reconnect(host.address)

    async def lose(self, *hosts: NetHost) -> None:
        """Power and cable of all of them are gone at one moment; who calls them hears nothing."""
        for host in hosts:
            self.link_down(host)
        await asyncio.gather(*(host.kill() for host in hosts))

    # -- looking ----------------------------------------------------------------------------------

    def others(self, *hosts: ProcessHost) -> list[NetHost]:
        """All of the pool but these."""
        return [host for host in self.hosts if host not in hosts]

    def known(self, host: ProcessHost) -> NetHost:
        """The host of the lab that a pool's host is."""
        return next(known for known in self.wired_hosts if known is host)

    async def etcd_leader(self) -> NetHost:
        """Until an etcd says that it leads; the host it is on."""
        client = Cluster(self.etcd_addresses, clock=SystemClock())
        try:
            found = await leading(client)
        finally:
            await client.close()
        return next(host for host in self.wired_hosts if host.etcd.client == found.address)

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[SharedPool]:
        """All hosts, started, in one pool whose store is in etcd; phantom is the master."""
        async with asyncio.TaskGroup() as tasks:
            # Together: on an etcd that is there, phantom founds the pool once it has a majority.
            for host in self.hosts:
                tasks.create_task(host.start())
        await join_all(self.hosts)
        if self._own_etcd:
            await VotingPool(list(self.hosts)).founded()
        async with pool_at(self.hosts, self.store_url) as pool:
            yield pool


def _members(addresses: Mapping[str, str]) -> dict[str, EtcdMember]:
    """An etcd of all these hosts."""
    peers = tuple((name, f"{address}:2380") for name, address in addresses.items())
    return {
        name: EtcdMember(
            name=name,
            listen=address,
            client=f"{address}:2379",
            peer=f"{address}:2380",
            token="lab",
            cluster=peers,
            joins=False,
        )
        for name, address in addresses.items()
    }


@asynccontextmanager
async def running_lab(
    folder: Path,
    *,
    size: int = 3,
    spares: int = 0,
    own_etcd: bool = False,
    disk_mib: int | None = None,
) -> AsyncIterator[NetLab]:
    """A lab whose hosts are switched off; whatever is in it ends with the block.

    The pool's store is in an etcd at each of its `size` hosts that the test runs, or, with
    `own_etcd`, in the one that the pool founds itself. `LabUnavailable` where there can be no lab.
    From the first one on the process is in namespaces of its own.
    """
    own_namespaces.enter()
    lab = NetLab(folder, size=size, spares=spares, own_etcd=own_etcd, disk_mib=disk_mib)
    async with lab.wired():
        yield lab
