"""Daemons of one machine that share the file of their pool's store."""

from pathlib import Path

import pytest

from poolcore.errors import Exit, PoolError, Reason
from poolmember.identity import Member, Own
from poolmember.state_dir import STORE_FILE
from support.daemons import SHARED_SRS, Cluster
from support.mounts import needs_own_mounts, with_mounts
from support.wholeness import identity_of, is_in, same_replicas


def store_option(file: Path) -> str:
    return f"--store=sqlite://{file}"


async def test_a_host_that_joins_learns_the_store_and_leaves_it_when_ejected(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "pool.db"
    phantom = cluster.local("phantom", sim=SHARED_SRS, options=[store_option(file)])
    ignite = cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        assert await is_in(ignite, phantom)
        membership = identity_of(ignite).membership
        assert isinstance(membership, Member)
        assert membership.store == f"sqlite://{file}"
        assert file.exists()
        assert not (phantom.state_dir / STORE_FILE).exists()

        await api.eject("ignite")
        assert not await is_in(ignite, phantom)
        own = identity_of(ignite).membership
        assert isinstance(own, Own)
        assert own.store is None
        assert (ignite.state_dir / STORE_FILE).exists()


async def test_a_restart_finds_the_pool_in_the_shared_file(
    cluster: Cluster, tmp_path: Path
) -> None:
    option = store_option(tmp_path / "pool.db")
    phantom, ignite = cluster.process("phantom", options=[option]), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        await api.update_pool(add_tags=["precious"])
    await phantom.kill()
    await phantom.start()
    async with phantom.api() as api:
        assert "precious" in (await api.state()).pool.tags
    await same_replicas(phantom, ignite)


@needs_own_mounts
async def test_a_host_that_does_not_see_the_store_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    phantom = cluster.local("phantom", options=[store_option(folder / "pool.db")])
    ignite = cluster.process("ignite")
    # What another machine would see in that place.
    ignite.inside = with_mounts('mount -t tmpfs none "$1"', str(folder))
    await cluster.start()
    async with phantom.api() as api:
        for call in (api.check_host(ignite.endpoint), api.add_host(ignite.endpoint)):
            with pytest.raises(PoolError) as refused:
                await call
            error = refused.value
            assert (error.reason, error.entry.exit) == (Reason.STORE_NOT_SHARED, Exit.CONFLICT)
            assert str(folder) in error.message
    assert not await is_in(ignite, phantom)
