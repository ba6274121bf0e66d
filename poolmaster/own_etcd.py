"""Where the pool's own etcd is: which ports its members have, and the URL of the store in it.

Each voter's etcd listens beside its daemon: at the daemon's address, for clients at the port after
the daemon's, for the other members at the one after that.
"""

from __future__ import annotations

from collections.abc import Iterable

from poolcore.model import Host, HostId, Voters
from poolcore.replica import State

CLIENT_PORT = 1
PEER_PORT = 2
"""Counted from the daemon's."""


def client_address(host: Host) -> str:
    """`host:port` at which the host's etcd serves its clients, were it a voter."""
    return beside(host.address, CLIENT_PORT)


def peer_address(host: Host) -> str:
    """`host:port` at which the other members reach it."""
    return beside(host.address, PEER_PORT)


def beside(endpoint: str, offset: int) -> str:
    """The `host:port` whose port is so far from that of `endpoint`."""
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{int(port) + offset}"


def store_url(hosts: Iterable[Host], *, near: HostId) -> str:
    """The store's URL for one of the pool's hosts: its own member first, if there is one."""
    ordered = sorted(hosts, key=lambda host: (host.uuid != near, host.uuid))
    return "etcd:" + ",".join(client_address(host) for host in ordered)


def own_store_url(state: State, *, near: HostId) -> str | None:
    """The URL of the store in the pool's own etcd; none if it is not there."""
    voters = state.pool.voters
    return None if voters is None else store_url(voters_of(state, voters), near=near)


def voters_of(state: State, voters: Voters) -> list[Host]:
    """The voters that are still of the pool."""
    found = (state.get(Host, uuid) for uuid in voters.hosts)
    return [host for host in found if host is not None]
