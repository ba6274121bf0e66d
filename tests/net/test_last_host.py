"""All hosts but one are lost at once; a person goes on with that one."""

from __future__ import annotations

import asyncio

import pytest

from net.last_host import asked_for_the_transition, goes_on_alone, made, on_its_disk
from net.misfortunes import CLIENTS, on_own_etcd
from support.marked_writes import writers
from support.netlab.lab import NetLab

pytestmark = pytest.mark.net

WRITES = 100
each_host = pytest.mark.parametrize("number", [0, 1, 2], ids=["phantom", "ignite", "specter"])


@on_own_etcd()
@each_host
async def test_what_was_acknowledged_a_second_before_is_there(lab: NetLab, number: int) -> None:
    last = lab.hosts[number]
    async with lab.pool() as pool:
        async with writers([pool.endpoints] * CLIENTS) as book:
            await book.goes_on(WRITES)
        # The time that a replica has to hear of it.
        await asyncio.sleep(1.0)
        await lab.lose(*lab.others(last))
        await goes_on_alone(last)
        async with last.api() as api:
            book.check(made(await api.state()))
            await api.update_pool(add_tags=["alone"])


@on_own_etcd()
@each_host
async def test_what_no_host_in_reach_has_is_said_before_anything_is_done(
    lab: NetLab, number: int
) -> None:
    last = lab.hosts[number]
    async with lab.pool() as pool, writers([pool.endpoints] * CLIENTS, to=last.name) as book:
        await book.goes_on(WRITES)
        await lab.lose(*lab.others(last))
        told = dict(book.acknowledged)
        outlook = await asked_for_the_transition(last)
        assert outlook.code == 2, "it is to be confirmed"
        assert outlook.json["outlook"]["may_lack"] is True
        assert set(outlook.json["outlook"]["to_be_off"]) == {h.name for h in lab.others(last)}
        refused = await asked_for_the_transition(last, "--yes")
        assert refused.error["code"] == "LOSS_NOT_ACCEPTED"
        had = on_its_disk(last)
        done = await goes_on_alone(last)
        assert done.json["outlook"]["revision"] >= had.revision
        async with last.api() as api:
            there = made(await api.state())
        # All that the host had, and so all that is missing is what was told to be.
        assert made(had).items() <= there.items()
        missing = {revision for asked, revision in told.items() if asked not in there}
        assert all(revision > had.revision for revision in missing)
        # Those that asked again are answered.
        await book.goes_on(CLIENTS)
