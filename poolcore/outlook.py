"""What the loss of hosts would come to: the values that `CheckLoss` answers with."""

from __future__ import annotations

from dataclasses import dataclass

from poolcore.model import HostId, NetworkId, PowerState, SrId, VdiId, VmId


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRef:
    """A host as it is spoken of."""

    uuid: HostId
    name_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StrandedVm:
    """A VM on a lost host; `power_state` is what the pool last knew."""

    uuid: VmId
    name_label: str
    power_state: PowerState
    resident_on: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class LostSr:
    """An SR that no remaining host could reach."""

    uuid: SrId
    name_label: str
    type: str
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LostVdi:
    """An image in such an SR."""

    uuid: VdiId
    name_label: str
    sr: SrId


@dataclass(frozen=True, slots=True, kw_only=True)
class LostNetwork:
    """A network without an interface on any remaining host."""

    uuid: NetworkId
    name_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warning:
    """Something that is or would not be as it should, and what to do about it."""

    code: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """The pool after the loss of `lost`; with nobody lost, the pool as it is."""

    lost: tuple[HostRef, ...] = ()
    master: HostRef | None = None
    """The master as it is now; none when none is known."""
    next_master: HostRef | None = None
    """The master afterwards, by itself if `writes`, else made so by a person; none if none could
    be."""
    writes: bool
    """Whether the pool would go on writing without a person."""
    survives: int
    """How many further hosts, whichever they are, could be lost then with the pool still
    writing."""
    vms: tuple[StrandedVm, ...] = ()
    srs: tuple[LostSr, ...] = ()
    vdis: tuple[LostVdi, ...] = ()
    networks: tuple[LostNetwork, ...] = ()
    warnings: tuple[Warning, ...] = ()
