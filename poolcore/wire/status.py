"""Errors on the wire, after google.rpc: a status, `ErrorInfo` with reason and parameters.

Findings travel as the violations of a `PreconditionFailure`, readable to any client, and whole in
details of their own for ours, as many as fit. `error_from_rpc` gives back the `PoolError` that was
raised.
"""

from __future__ import annotations

import itertools

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from poolcore.errors import PoolError, Reason
from poolcore.model import Finding
from poolcore.wire.codec import from_proto, to_proto
from poolmanager.v1 import resources_pb2

DOMAIN = "poolmanager"
FINDINGS_BYTES = 5_000
"""Errors travel in metadata, of which gRPC takes 8 KiB unless both sides agree on more. A refusal
with more findings than fit says how many there are (`found`); CheckHost answers with all."""
DETAILS_KEY = "grpc-status-details-bin"


def _packed(message: object) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)  # type: ignore[arg-type]  # callers pass messages only
    return detail


def status_of(error: PoolError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, message and trailing metadata under which `error` travels."""
    code = grpc.StatusCode[error.entry.status]
    status = status_pb2.Status(code=code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata=dict(error.params)
    )
    status.details.append(_packed(info))
    findings = _that_fit(error.findings)
    if findings:
        violations = [
            error_details_pb2.PreconditionFailure.Violation(type=f.code, subject=f.subject)
            for f in findings
        ]
        failure = error_details_pb2.PreconditionFailure(violations=violations)
        status.details.append(_packed(failure))
        status.details.extend(_packed(to_proto(f)) for f in findings)
    return code, error.message, ((DETAILS_KEY, status.SerializeToString()),)


def _that_fit(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The first findings, as many as `FINDINGS_BYTES` hold."""
    sizes = itertools.accumulate(to_proto(f).ByteSize() for f in findings)
    return tuple(f for f, size in zip(findings, sizes, strict=True) if size <= FINDINGS_BYTES)


def error_from_rpc(
    error: grpc.aio.AioRpcError, *, endpoint: str = "", seconds: float | None = None
) -> PoolError:
    """The error that the other side raised, or what the failure of the call itself amounts to.

    `endpoint` was called and `seconds` were allowed, for messages.
    """
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            found = _error_in(status_pb2.Status.FromString(value))
            if found is not None:
                return found
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PoolError(Reason.DEADLINE_PASSED, seconds="?" if seconds is None else f"{seconds:g}")
    if code is grpc.StatusCode.UNAVAILABLE:
        return PoolError(Reason.NO_HOST_ANSWERS, addresses=endpoint, problem=text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return PoolError(Reason.REQUEST_TOO_LARGE, limit="a few million", problem=text)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return PoolError(Reason.NOT_A_POOL_HOST, address=endpoint, problem=text)
    return PoolError(Reason.INTERNAL_ERROR, incident=f"{code.name}: {text}", host=endpoint)


def _error_in(status: status_pb2.Status) -> PoolError | None:
    info = error_details_pb2.ErrorInfo()
    findings: list[Finding] = []
    found = False
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            found = detail.Unpack(info) and info.domain == DOMAIN
        elif detail.Is(resources_pb2.Finding.DESCRIPTOR):
            finding = resources_pb2.Finding()
            detail.Unpack(finding)
            findings.append(from_proto(finding))
    if not found:
        return None
    try:
        reason = Reason(info.reason)
    except ValueError:
        # A later release's reason: its code and text are all there is to show.
        return PoolError(
            Reason.INTERNAL_ERROR, incident=f"{info.reason}: {status.message}", host="the server"
        )
    return PoolError(reason, findings=tuple(findings), **dict(info.metadata))
