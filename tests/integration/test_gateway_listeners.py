"""Where a daemon listens: its own socket, one port that is its alone, nothing open by accident."""

import stat
from pathlib import Path

from poolcore.errors import CATALOG, Exit, Reason
from support.api import Api
from support.daemons import Cluster, ProcessHost


async def refused(host: ProcessHost) -> str:
    """What a daemon said that ended at once with exit code 2."""
    await host.begin()
    assert await host.ended() == Exit.USAGE
    assert "Traceback" not in host.log
    return host.log


async def test_the_hosts_own_socket_is_for_its_owner_only_and_answers_as_the_port_does(
    cluster: Cluster,
) -> None:
    phantom = cluster.process("phantom")
    await phantom.start()
    path = phantom.state_dir / "api.sock"
    for _ in range(2):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        async with Api(f"unix://{path}") as at_socket, phantom.api() as at_port:
            assert await at_socket.quiet() == await at_port.state()
            await at_socket.update_pool(add_tags=["seen"])
        # A daemon that was killed leaves its socket behind.
        await phantom.kill()
        assert path.exists()
        await phantom.start()


async def test_a_listener_beyond_loopback_has_to_be_asked_for(cluster: Cluster) -> None:
    port = cluster.loopback.port
    closed = cluster.process("phantom", endpoint=f"0.0.0.0:{port}")
    assert "--insecure" in await refused(closed)
    assert not closed.state_dir.exists(), "nothing is written before the settings are checked"

    advertised = cluster.loopback.endpoint()
    asked_for = cluster.process(
        "phantom",
        endpoint=f"0.0.0.0:{port}",
        options=["--insecure", f"--advertise={advertised}"],
    )
    await asked_for.start()
    async with Api(advertised) as api:
        assert [host.address for host in (await api.status()).hosts] == [advertised]


async def test_two_daemons_do_not_share_a_port(cluster: Cluster) -> None:
    first = cluster.local("phantom")
    second = cluster.process("ignite", endpoint=first.endpoint)
    await first.start()
    said = await refused(second)
    assert first.endpoint in said
    assert CATALOG[Reason.INVALID_CONFIGURATION].remedy in said
    async with first.api() as api:
        assert [host.name for host in (await api.status()).hosts] == ["phantom"]


async def test_two_daemons_do_not_share_a_state_directory(cluster: Cluster) -> None:
    first, second = cluster.local("phantom"), cluster.process("ignite")
    await first.start()
    before = _names(first.state_dir)
    second.state_dir = first.state_dir
    said = await refused(second)
    assert "Another poolmember already runs" in said
    assert _names(first.state_dir) == before
    async with first.api() as api:
        assert [host.name for host in (await api.status()).hosts] == ["phantom"]


def _names(folder: Path) -> list[str]:
    """What is in a folder but for pool.json, which a daemon that runs there replaces at times."""
    return sorted(path.name for path in folder.iterdir() if "pool.json" not in path.name)
