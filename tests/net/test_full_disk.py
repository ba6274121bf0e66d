"""A host whose disk is full: etcd ends there, and the replica falls behind."""

from __future__ import annotations

import pytest

from net.misfortunes import comes_true, go_on, in_use
from support.netlab.lab import NetLab

pytestmark = pytest.mark.net


@pytest.mark.parametrize("leads", [True, False], ids=["the master's", "a member's"])
async def test_a_host_whose_disk_is_full_holds_nobody_up_and_catches_up_when_there_is_space(
    lab: NetLab, leads: bool
) -> None:
    async with lab.pool() as pool:
        master = lab.known(await pool.master())
        host = master if leads else lab.others(master)[0]
        async with in_use(pool) as book:
            host.fill_disk()
            async with lab.others(host)[0].api() as api:
                await api.commits(1_000)
            await comes_true(lambda: not host.etcd.runs)
            await comes_true(lambda: "replica.db cannot be written" in host.log)
            await go_on(book)
            host.free_disk()
            host.etcd.start()
