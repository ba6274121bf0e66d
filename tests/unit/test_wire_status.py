"""Errors survive the wire, and never outgrow what gRPC takes as metadata."""

from google.rpc import status_pb2

from poolcore.errors import PoolError, Reason
from poolcore.model import Finding, Severity
from poolcore.wire.status import DETAILS_KEY, FINDINGS_BYTES, status_of

DEFAULT_METADATA_BYTES = 8 * 1024


def finding(number: int) -> Finding:
    return Finding(
        code="JOINING_HOST_CANNOT_HAVE_VMS",
        severity=Severity.ERROR,
        subject=f"vm{number}",
        expected="no VM",
        actual="a halted VM",
        explanation="A host brings no VMs into a pool. " * 4,
        remedy="Undefine it. " * 8,
    )


def test_a_refusal_with_many_findings_fits_into_metadata() -> None:
    findings = tuple(finding(number) for number in range(200))
    error = PoolError(Reason.JOIN_REFUSED, findings=findings, host="h", count="200", found="200")

    _, text, metadata = status_of(error)

    ((key, value),) = metadata
    assert key == DETAILS_KEY
    assert FINDINGS_BYTES / 2 < len(value) < DEFAULT_METADATA_BYTES - len(text) - 512
    details = status_pb2.Status.FromString(value).details
    carried = sum(detail.type_url.endswith("v1.Finding") for detail in details)
    assert 5 < carried < 200
