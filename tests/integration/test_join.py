"""A host joins a pool: what is there afterwards, and that both sides say the same."""

from support.daemons import SHARED_SRS, Cluster


async def test_six_srs_and_three_srs_are_nine_at_both_hosts(cluster: Cluster) -> None:
    phantom, ignite = cluster.process("phantom", sim=SHARED_SRS), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as at_phantom, ignite.api() as at_ignite:
        assert (len(await at_phantom.srs()), len(await at_ignite.srs())) == (6, 3)
        await at_phantom.join(ignite.endpoint)
        assert len(await at_phantom.srs()) == 9
        assert await at_ignite.srs() == await at_phantom.srs()
