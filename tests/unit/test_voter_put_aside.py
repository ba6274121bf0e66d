"""What a host does with a member of the pool's etcd whose files it cannot put aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolcore.errors import PoolError, Reason
from poolmember.etcd.member import EtcdMember
from poolmember.etcd.voter import EtcdVoter


async def test_a_disk_that_refuses_is_told_as_such_and_asked_again(tmp_path: Path) -> None:
    folder, in_the_way = tmp_path / "etcd", tmp_path / "etcd.retired"
    peer = "127.0.0.1:7445"
    member = EtcdMember("a", "127.0.0.1", "127.0.0.1:7444", peer, "t", (("a", peer),), joins=False)
    member.save(folder)
    in_the_way.write_text("no folder")
    voter = EtcdVoter(folder, "phantom")
    with pytest.raises(PoolError) as refused:
        await voter.stop("t")
    assert refused.value.reason is Reason.STATE_UNWRITABLE
    assert voter.cluster is not None
    in_the_way.unlink()
    await voter.leave()
    assert voter.cluster is None
