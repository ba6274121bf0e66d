"""Hosts for integration tests; when one fails, its report has the logs of all of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator

import pytest

from support.daemons import Cluster, Loopback, running_cluster
from support.etcd import EtcdCluster

CLUSTER: pytest.StashKey[Cluster] = pytest.StashKey()


@pytest.fixture(scope="session")
def loopback() -> Loopback:
    """Addresses for this test process alone."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return Loopback(net=10 + 5 * (int(worker) % 48))


@pytest.fixture
async def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, loopback: Loopback
) -> AsyncIterator[Cluster]:
    """A cluster without hosts yet; whatever the test starts in it ends with the test."""
    # Not `tmp_path`: with a long test name in it, a socket's path would be too long.
    async with running_cluster(tmp_path_factory.mktemp("pool"), loopback) as cluster:
        request.node.stash[CLUSTER] = cluster
        yield cluster


@pytest.fixture(params=["sqlite", pytest.param("etcd", marks=pytest.mark.etcd)])
async def store_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """Where hosts share a store: a file (of `shared_pool`'s choice) and a cluster of three."""
    if request.param == "sqlite":
        yield ""
        return
    etcd = EtcdCluster(tmp_path_factory.mktemp("etcd"), size=3)
    try:
        await etcd.start()
        yield f"etcd:{','.join(etcd.addresses)}"
    finally:
        etcd.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the daemons' logs into the report of a failed test."""
    report = yield
    cluster = item.stash.get(CLUSTER, None)
    if report.failed and cluster is not None:
        for host in (h for h in cluster.hosts if h.log):
            report.sections.append((f"log of {host.name} at {host.endpoint}", host.log))
    return report
