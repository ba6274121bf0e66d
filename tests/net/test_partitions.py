"""A pool whose network is cut: one side at most changes it, and nothing is lost when it heals."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from net.misfortunes import (
    OWN,
    answers_from_its_replica,
    go_on,
    in_use,
    leading_in_everything,
    whole,
)
from poolcore.errors import PoolError, Reason
from poolcore.requests import request_id
from support.netlab.host import NetHost
from support.netlab.lab import NetLab

pytestmark = pytest.mark.net

REFUSALS = {Reason.NO_MASTER, Reason.OUTCOME_UNKNOWN, Reason.STORE_UNAVAILABLE}


async def read_only(*hosts: NetHost) -> set[str]:
    """Until these hosts answer with what they have, and say so; the writes they refuse then."""
    refused = set()
    for host in hosts:
        async with host.api() as api:
            await answers_from_its_replica(api)
            asked = request_id(1, secrets.token_hex(8))
            with pytest.raises(PoolError) as refusal:
                await api.update_pool(asked=asked, add_tags=["minority"])
            assert refusal.value.reason in REFUSALS
            refused.add(asked)
    return refused


def the_master(lab: NetLab, master: NetHost) -> list[NetHost]:
    return [master]


def a_member(lab: NetLab, master: NetHost) -> list[NetHost]:
    return lab.others(master)[:1]


def the_master_and_another(lab: NetLab, master: NetHost) -> list[NetHost]:
    return [master, *lab.others(master)[:1]]


def all_but_two_voters(lab: NetLab, master: NetHost) -> list[NetHost]:
    """Most of the hosts, the master among them, with one voter of three."""
    without = [host for host in lab.hosts if not host.etcd.runs]
    assert len(without) == 2
    return [master, *(host for host in without if host is not master)]


@pytest.mark.parametrize(
    ("lab", "minority"),
    [
        ({"size": 3}, the_master),
        ({"size": 3}, a_member),
        ({"size": 5}, the_master_and_another),
        (OWN, the_master),
        (OWN, a_member),
        (OWN | {"size": 5}, all_but_two_voters),
    ],
    indirect=["lab"],
)
async def test_a_minority_changes_nothing_and_says_that_it_may_be_behind(
    lab: NetLab, minority: Callable[[NetLab, NetHost], list[NetHost]]
) -> None:
    async with lab.pool() as pool, in_use(pool) as book:
        master = lab.known(await pool.master())
        cut_off = minority(lab, master)
        lab.isolate(*cut_off)
        if master in cut_off:
            assert await pool.another_master(than=master) not in cut_off
        await go_on(book)
        refused = await read_only(*cut_off)
        await go_on(book)
        lab.heal()
        await whole(pool)
        assert not refused & pool.chain.requests.keys()


@pytest.mark.parametrize("deaf", [True, False], ids=["hears nobody", "is not heard"])
async def test_a_master_whose_network_works_in_one_direction_is_replaced(
    lab: NetLab, deaf: bool
) -> None:
    async with lab.pool() as pool:
        master = await leading_in_everything(lab, pool)
        async with in_use(pool) as book:
            for other in lab.others(master):
                ends = (other, master) if deaf else (master, other)
                lab.cut_one_way(*ends)
            await pool.another_master(than=master)
            await go_on(book)
            refused = await read_only(master)
            lab.heal()
            await whole(pool)
            assert not refused & pool.chain.requests.keys()


async def test_one_member_that_does_not_hear_the_master_replaces_nobody(lab: NetLab) -> None:
    async with lab.pool() as pool, in_use(pool) as book:
        before = await pool.chain.head()
        master = lab.known(await pool.master())
        member = lab.others(master)[0]
        lab.cut(master, member)
        await read_only(member)
        await go_on(book)
        lab.heal()
        await whole(pool)
        assert (await pool.chain.head()).term == before.term
