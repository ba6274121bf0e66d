"""The network lab itself: what a fault is to those who suffer from it, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from net.misfortunes import PATIENCE_SECONDS, comes_true, on_own_etcd, whole
from support.netlab.host import NetHost
from support.netlab.lab import NetLab

pytestmark = pytest.mark.net

PEER_PORT = 2380
UNUSED_PORT = 9
ALONE = """
import asyncio, sys
from pathlib import Path
from support.netlab.lab import running_lab

async def main() -> None:
    async with running_lab(Path(sys.argv[1])) as lab, lab.pool():
        print(*(pid for host in lab.hosts for pid in host.pids()), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
RECEIVER = f"""
import socket
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("", {UNUSED_PORT}))
print(flush=True)
receiver.recv(100)
"""


async def connects(host: NetHost, to: NetHost) -> bool:
    """Whether a host gets a connection to another one's etcd."""
    probe = f"exec 3<>/dev/tcp/{to.address}/{PEER_PORT}"
    process = await asyncio.create_subprocess_exec(
        *host.inside, "timeout", "0.3", "bash", "-c", probe, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait() == 0


async def until_connected(lab: NetLab, *pairs: tuple[NetHost, NetHost]) -> None:
    """Until exactly these pairs can connect, in both directions."""
    ways = [(one, other) for one in lab.hosts for other in lab.others(one)]
    expected = [way in pairs or way[::-1] in pairs for way in ways]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await asyncio.gather(*(connects(*way) for way in ways)) != expected:
            pass


async def test_a_fault_is_between_the_hosts_it_names_and_over_when_it_is_undone(
    lab: NetLab,
) -> None:
    phantom, ignite, specter = lab.hosts
    all_pairs: Sequence[tuple[NetHost, NetHost]] = (
        (phantom, ignite),
        (phantom, specter),
        (ignite, specter),
    )
    for host in lab.hosts:
        host.etcd.start()
    await until_connected(lab, *all_pairs)
    lab.cut(phantom, ignite)
    await until_connected(lab, *all_pairs[1:])
    # The test itself is cut off from nobody.
    _, writer = await asyncio.open_connection(phantom.address, PEER_PORT)
    writer.close()
    lab.isolate(specter)
    await until_connected(lab)
    lab.heal()
    await until_connected(lab, *all_pairs)
    lab.link_down(phantom)
    await until_connected(lab, (ignite, specter))
    lab.link_up(phantom)
    await until_connected(lab, *all_pairs)


@pytest.mark.parametrize("cut", [True, False])
async def test_of_a_one_way_cut_only_one_side_does_not_hear_the_other(
    lab: NetLab, cut: bool
) -> None:
    phantom, ignite, _ = lab.hosts
    sender, receiver = (phantom, ignite) if cut else (ignite, phantom)
    lab.cut_one_way(phantom, ignite)
    listening = await asyncio.create_subprocess_exec(
        *receiver.inside, "timeout", "1", sys.executable, "-c", RECEIVER,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert listening.stdout is not None
    await listening.stdout.readline()
    probe = f"echo hello > /dev/udp/{receiver.address}/{UNUSED_PORT}"
    sending = await asyncio.create_subprocess_exec(*sender.inside, "bash", "-c", probe)
    assert await sending.wait() == 0
    assert (await listening.wait() == 0) is not cut


@on_own_etcd(spares=1)
async def test_the_pools_own_etcd_goes_with_its_host_and_comes_back_with_its_daemon(
    lab: NetLab,
) -> None:
    (spare,) = lab.spares
    async with lab.pool() as pool:
        host = lab.others(lab.hosts[0])[0]
        assert len(host.pids()) == 2
        await host.kill_daemon()
        assert host.etcd.runs, "it outlives the daemon"
        await host.kill()
        assert host.pids() == set()
        await host.start()
        await comes_true(lambda: host.etcd.runs)
        host.etcd.kill()
        await comes_true(lambda: not host.etcd.runs)
        await comes_true(lambda: host.etcd.runs)
        await whole(pool)
    assert spare.pids() == set()


async def test_a_host_is_frozen_and_killed_with_everything_on_it(lab: NetLab) -> None:
    host, other = lab.hosts[1:]
    await host.start()
    await other.start()
    others = other.pids()
    child = await asyncio.create_subprocess_exec(*host.inside, "sh", "-c", "sleep 1000 & wait")
    await comes_true(lambda: len(host.pids()) == 4)
    await host.freeze()
    host.thaw()
    async with host.api() as api:
        await api.status()
    await host.freeze()
    await host.kill()
    assert await child.wait() == -signal.SIGKILL
    assert host.pids() == set()
    assert other.pids() == others
    await host.start()


@pytest.mark.usefixtures("lab")
async def test_of_a_lab_whose_process_was_killed_nothing_is_left(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ALONE, str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert process.stdout is not None
    pids = [int(pid) for pid in (await process.stdout.readline()).split()]
    assert len(pids) == 6
    process.kill()
    await process.wait()
    await comes_true(lambda: not any(runs(pid) for pid in pids))


def runs(pid: int) -> bool:
    """Whether a process has not ended, whoever has still to wait for it."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    return False
