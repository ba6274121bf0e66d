"""Hosts that a pool has only on paper, for members that are no daemons."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from poolcore.clock import SystemClock
from poolcore.model import (
    Address,
    AddressPurpose,
    HostId,
    HostMetrics,
    HostMetricsId,
    Kind,
    derived_uuid,
)
from poolcore.replica import Put, State
from poolmaster.claiming import claim
from poolmaster.ledger import Decision, Ledger
from poolmember.files import HostFiles
from poolmember.identity import Own
from poolmember.state_dir import StateDir


async def add_guests(state_dir: Path, number: int) -> list[HostId]:
    """Add hosts to the pool of one whose daemon is down, as copies of its own; their uuids."""
    with StateDir.open(state_dir) as directory:
        files, identity = HostFiles(directory), directory.identity
        assert identity is not None
        assert isinstance(identity.membership, Own)
        store = await files.open_store(identity.membership)
        try:
            claimed = await claim(store, identity.host)
            head, state = claimed.head, claimed.state
            ledger = Ledger(store, head, state, clock=SystemClock())
            guests = [
                HostId(derived_uuid(identity.host, Kind.HOST, f"guest{nth}"))
                for nth in range(number)
            ]
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(ledger.run())
                await ledger.write(lambda state: _arrivals(state, identity.host, guests))
                running.cancel()
        finally:
            await store.close()
    return guests


def _arrivals(state: State, own: HostId, guests: list[HostId]) -> Decision:
    host = state.host(own)
    metrics = next(m for m in state.all(HostMetrics) if m.host == own)
    changes = []
    for nth, guest in enumerate(guests, start=1):
        endpoint = f"192.0.2.{nth}:7443"
        address = Address(purpose=AddressPurpose.MANAGEMENT, endpoint=endpoint)
        changes.append(
            Put(replace(host, uuid=guest, name_label=f"guest{nth}", addresses=(address,)))
        )
        uuid = HostMetricsId(derived_uuid(guest, Kind.HOST_METRICS, "metrics"))
        changes.append(Put(replace(metrics, uuid=uuid, host=guest, live=False)))
    return Decision(tuple(changes))
