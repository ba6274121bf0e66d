"""Hosts of a pool that vanish with all that is on them, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import permutations

import pytest

from net.misfortunes import (
    OWN,
    answers_from_its_replica,
    go_on,
    in_use,
    leading_in_everything,
)
from support.netlab.host import NetHost
from support.netlab.lab import NetLab

pytestmark = pytest.mark.net

ORDERS = ((0, 1, 2), (2, 1, 0), (1, 2, 0))
"""In which hosts come back."""


async def cable_pulled(lab: NetLab, host: NetHost) -> None:
    lab.link_down(host)


async def power_cut(lab: NetLab, host: NetHost) -> None:
    await host.kill()


async def hung(lab: NetLab, host: NetHost) -> None:
    await host.freeze()


async def back(lab: NetLab, host: NetHost) -> None:
    """Undo any of them."""
    lab.link_up(host)
    if host.pids():
        host.thaw()
    else:
        await host.start()


@pytest.mark.parametrize(
    ("lab", "lost"),
    [
        ({"size": 3}, cable_pulled),
        ({"size": 3}, power_cut),
        ({"size": 3}, hung),
        ({"size": 5}, cable_pulled),
        (OWN, cable_pulled),
        (OWN, power_cut),
        (OWN, hung),
    ],
    indirect=["lab"],
)
async def test_the_host_with_the_master_and_the_leader_of_etcd_is_replaced_and_comes_back(
    lab: NetLab, lost: Callable[[NetLab, NetHost], Awaitable[None]]
) -> None:
    async with lab.pool() as pool:
        host = await leading_in_everything(lab, pool)
        term = (await pool.chain.head()).term
        async with in_use(pool) as book:
            await lost(lab, host)
            await pool.another_master(than=host)
            await go_on(book)
            await back(lab, host)
        assert (await pool.chain.head()).term == term + 1


@pytest.mark.parametrize(
    ("lab", "orders"),
    [
        ({"size": 3}, ORDERS),
        (OWN, tuple(permutations(range(3)))),
        (OWN | {"size": 5}, ((4, 2, 0, 3, 1),)),
    ],
    indirect=["lab"],
)
async def test_after_the_power_of_all_was_cut_everything_acknowledged_is_there(
    lab: NetLab, orders: Sequence[Sequence[int]]
) -> None:
    async with lab.pool() as pool, in_use(pool) as book:
        for order in orders:
            await go_on(book)
            await asyncio.gather(*(host.kill() for host in lab.hosts))
            acknowledged = dict(book.acknowledged)
            first, *others = (lab.hosts[number] for number in order)
            await first.start()
            async with first.api() as api:
                await answers_from_its_replica(api)
            for host in others:
                await host.start()
            await pool.one_master()
            await pool.chain.read_on()
            assert acknowledged.items() <= pool.chain.requests.items()
