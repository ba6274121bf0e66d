"""Objects with links: what a mirror gives out.

A view is an object at one revision together with everything else at that revision, so that what
is reached through its links fits together. Every field of the object is an attribute of the view;
fields that are references, and the reverse of them, lead to other views::

    vm = mirror.vms["web1"]
    vm.name_label, vm.resident_on.name_label, [vbd.vdi.sr for vbd in vm.vbds]

A reference to what is not there (any more) is None, and left out of lists.
"""

from __future__ import annotations

from poolclient._picture import View
from poolcore.model import (
    PBD,
    PIF,
    SR,
    VBD,
    VDI,
    VIF,
    VLAN,
    VM,
    Bond,
    Host,
    HostMetrics,
    Kind,
    Lock,
    MasterRecord,
    Message,
    Network,
    Pool,
    Task,
    Tunnel,
)


class PoolView(View[Pool]):
    """The pool."""

    __slots__ = ()
    KIND = Kind.POOL

    @property
    def default_sr(self) -> SrView | None:
        """The SR for new disks."""
        return self._to(SrView, self.object.default_sr)


class HostView(View[Host]):
    """A host."""

    __slots__ = ()
    KIND = Kind.HOST

    @property
    def metrics(self) -> HostMetricsView | None:
        """Liveness and memory."""
        return next(iter(self._from(HostMetricsView, "host")), None)

    @property
    def resident_vms(self) -> list[VmView]:
        """The VMs it runs or holds the definition of."""
        return self._from(VmView, "resident_on")

    @property
    def pbds(self) -> list[PbdView]:
        """Its connections to SRs."""
        return self._from(PbdView, "host")

    @property
    def srs(self) -> list[SrView]:
        """The SRs it is connected to."""
        return [sr for pbd in self.pbds if (sr := pbd.sr) is not None]

    @property
    def pifs(self) -> list[PifView]:
        """Its interfaces."""
        return self._from(PifView, "host")


class HostMetricsView(View[HostMetrics]):
    """What changes about a host while it runs."""

    __slots__ = ()
    KIND = Kind.HOST_METRICS

    @property
    def host(self) -> HostView | None:
        """The host."""
        return self._to(HostView, self.object.host)


class SrView(View[SR]):
    """A storage repository."""

    __slots__ = ()
    KIND = Kind.SR

    @property
    def pbds(self) -> list[PbdView]:
        """The connections of hosts to it."""
        return self._from(PbdView, "sr")

    @property
    def hosts(self) -> list[HostView]:
        """The hosts that are connected to it."""
        return [host for pbd in self.pbds if (host := pbd.host) is not None]

    @property
    def vdis(self) -> list[VdiView]:
        """The disks in it."""
        return self._from(VdiView, "sr")


class PbdView(View[PBD]):
    """The connection of a host to an SR."""

    __slots__ = ()
    KIND = Kind.PBD

    @property
    def host(self) -> HostView | None:
        """The host."""
        return self._to(HostView, self.object.host)

    @property
    def sr(self) -> SrView | None:
        """The SR."""
        return self._to(SrView, self.object.sr)


class VdiView(View[VDI]):
    """A disk image."""

    __slots__ = ()
    KIND = Kind.VDI

    @property
    def sr(self) -> SrView | None:
        """The SR it is in."""
        return self._to(SrView, self.object.sr)

    @property
    def vbds(self) -> list[VbdView]:
        """The connections of VMs to it."""
        return self._from(VbdView, "vdi")


class NetworkView(View[Network]):
    """A network."""

    __slots__ = ()
    KIND = Kind.NETWORK

    @property
    def pifs(self) -> list[PifView]:
        """The interfaces that carry it."""
        return self._from(PifView, "network")

    @property
    def vifs(self) -> list[VifView]:
        """The connections of VMs to it."""
        return self._from(VifView, "network")


class PifView(View[PIF]):
    """An interface of a host."""

    __slots__ = ()
    KIND = Kind.PIF

    @property
    def host(self) -> HostView | None:
        """The host."""
        return self._to(HostView, self.object.host)

    @property
    def network(self) -> NetworkView | None:
        """The network it carries."""
        return self._to(NetworkView, self.object.network)


class BondView(View[Bond]):
    """Several interfaces used as one."""

    __slots__ = ()
    KIND = Kind.BOND

    @property
    def master(self) -> PifView | None:
        """The PIF that stands for the bond."""
        return self._to(PifView, self.object.master)

    @property
    def slaves(self) -> list[PifView]:
        """The PIFs it is made of."""
        pifs = (self._to(PifView, uuid) for uuid in self.object.slaves)
        return [pif for pif in pifs if pif is not None]


class VlanView(View[VLAN]):
    """A tagged interface."""

    __slots__ = ()
    KIND = Kind.VLAN

    @property
    def tagged_pif(self) -> PifView | None:
        """The tagged PIF."""
        return self._to(PifView, self.object.tagged_pif)

    @property
    def untagged_pif(self) -> PifView | None:
        """The PIF below it."""
        return self._to(PifView, self.object.untagged_pif)


class TunnelView(View[Tunnel]):
    """A tunnel to other hosts."""

    __slots__ = ()
    KIND = Kind.TUNNEL

    @property
    def access_pif(self) -> PifView | None:
        """The PIF of the tunnel's inside."""
        return self._to(PifView, self.object.access_pif)

    @property
    def transport_pif(self) -> PifView | None:
        """The PIF that carries it."""
        return self._to(PifView, self.object.transport_pif)


class VmView(View[VM]):
    """A virtual machine."""

    __slots__ = ()
    KIND = Kind.VM

    @property
    def resident_on(self) -> HostView | None:
        """The host that runs it or holds its definition."""
        return self._to(HostView, self.object.resident_on)

    @property
    def vbds(self) -> list[VbdView]:
        """Its connections to disks."""
        return self._from(VbdView, "vm")

    @property
    def vifs(self) -> list[VifView]:
        """Its connections to networks."""
        return self._from(VifView, "vm")


class VbdView(View[VBD]):
    """The connection of a VM to a disk."""

    __slots__ = ()
    KIND = Kind.VBD

    @property
    def vm(self) -> VmView | None:
        """The VM."""
        return self._to(VmView, self.object.vm)

    @property
    def vdi(self) -> VdiView | None:
        """The disk; none for an empty drive."""
        return self._to(VdiView, self.object.vdi)


class VifView(View[VIF]):
    """The connection of a VM to a network."""

    __slots__ = ()
    KIND = Kind.VIF

    @property
    def vm(self) -> VmView | None:
        """The VM."""
        return self._to(VmView, self.object.vm)

    @property
    def network(self) -> NetworkView | None:
        """The network."""
        return self._to(NetworkView, self.object.network)


class TaskView(View[Task]):
    """A task."""

    __slots__ = ()
    KIND = Kind.TASK

    @property
    def subject(self) -> HostView | None:
        """The host it is about."""
        return self._to(HostView, self.object.subject)


class MessageView(View[Message]):
    """A message."""

    __slots__ = ()
    KIND = Kind.MESSAGE


class LockView(View[Lock]):
    """A lock."""

    __slots__ = ()
    KIND = Kind.LOCK


class MasterRecordView(View[MasterRecord]):
    """That a host became master."""

    __slots__ = ()
    KIND = Kind.MASTER_RECORD

    @property
    def host(self) -> HostView | None:
        """The host; none when it has left the pool."""
        return self._to(HostView, self.object.host)
