"""A refusal names everything, also when that is more than an error can carry."""

import pytest

from poolclient import JoinRefused, PoolClient
from support.daemons import Cluster

MANY_VMS = """
[[vm]]
name = "leftover"
power_state = "halted"
count = 40
"""


async def test_the_client_has_every_finding_of_a_long_refusal(cluster: Cluster) -> None:
    phantom = cluster.local("phantom")
    crowded = cluster.local("crowded", sim=MANY_VMS)
    await cluster.start(phantom, crowded)

    async with PoolClient.connect(phantom.endpoint) as pool:
        with pytest.raises(JoinRefused) as refusal:
            _ = await pool.add_host(crowded.endpoint)

    codes = [finding.code for finding in refusal.value.findings]
    assert codes == ["JOINING_HOST_CANNOT_HAVE_VMS"] * 40
    assert refusal.value.params["found"] == "40"
