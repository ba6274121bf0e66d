"""What is asked of the third host of a pool: it is to vote in the pool's own etcd (rows 23, 24)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import Host
from support.daemons import Cluster
from support.own_etcd import VotingPool, voting_pool

pytestmark = pytest.mark.etcd


def etcd_of_version(folder: Path, version: str | None) -> str:
    """A PATH on which the program etcd is of that version, or is not at all."""
    folder.mkdir()
    if version is None:
        return str(folder)
    program = folder / "etcd"
    program.write_text(f"#!/bin/sh\necho 'etcd Version: {version}'\n")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


async def refused(pool: VotingPool, endpoint: str) -> PoolError:
    async with pool.hosts[0].api() as api:
        with pytest.raises(PoolError) as refusal:
            await api.join(endpoint)
        # Nobody may join in spite of it.
        with pytest.raises(PoolError):
            await api.join(endpoint, force=True)
        assert sum(1 for _ in (await api.state()).all(Host)) == 2
    assert refusal.value.reason is Reason.JOIN_REFUSED
    return refusal.value


@pytest.mark.parametrize(
    ("version", "found"),
    [
        (None, ("ETCD_MISSING", "no etcd")),
        ("3.5.3", ("ETCD_VERSION_REFUSED", "etcd 3.5.3")),
        ("3.4.21", ("ETCD_VERSION_REFUSED", "etcd 3.4.21")),
    ],
)
async def test_a_third_host_without_a_good_etcd_is_refused_unless_it_is_no_voter(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
    found: tuple[str, str],
) -> None:
    async with voting_pool(cluster, "phantom", "ignite") as pool:
        specter = cluster.process("specter", options=["--voter"])
        with monkeypatch.context() as there:
            there.setenv("PATH", etcd_of_version(tmp_path / "bin", version))
            await specter.start()
            error = await refused(pool, specter.endpoint)
            (finding,) = error.findings
            assert (finding.code, finding.actual) == found
            await specter.stop()
            specter.options = ("--no-voter",)
            await specter.start()
        async with pool.hosts[0].api() as api:
            await api.join(specter.endpoint)
            state = await api.state()
        assert sum(1 for _ in state.all(Host)) == 3
        assert state.pool.voters is None


async def test_the_disk_of_a_host_that_would_vote_is_told_to_be_slow_or_full_and_it_joins(
    cluster: Cluster,
) -> None:
    async with voting_pool(cluster, "phantom", "ignite") as pool:
        poor = "fsync_seconds = 0.05\nfree_disk_bytes = 1000000\n"
        specter = cluster.process("specter", sim=poor, options=["--voter"])
        await specter.start()
        async with pool.hosts[0].api() as api:
            check = await api.check_host(specter.endpoint)
            found = {f.code: f for f in check.findings}
            assert set(found) == {"HOST_DISK_SPACE", "SLOW_FSYNC"}
            assert "a majority of the disks of those that vote" in found["SLOW_FSYNC"].explanation
            assert check.may_join
            await api.join(specter.endpoint)
        await pool.voted_by("phantom", "ignite", "specter")
