"""What etcd's refusals say about a transaction."""

import grpc
import pytest

from poolmaster.store.etcd.calls import was_not_applied


@pytest.mark.parametrize(
    ("details", "certain"),
    [
        ("raft proposal dropped", True),
        ("etcdserver: no leader", True),
        ("etcdserver: request timed out", False),
        ("Socket closed", False),
    ],
)
def test_only_what_was_never_proposed_was_certainly_not_applied(
    details: str, certain: bool
) -> None:
    none = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, none, none, details=details)
    assert was_not_applied(error) == certain
