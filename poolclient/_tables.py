"""The tables of a copy of the pool, as it is when they are asked for."""

from __future__ import annotations

from poolclient._picture import Picture, ViewTable
from poolclient._views import (
    BondView,
    HostMetricsView,
    HostView,
    LockView,
    MasterRecordView,
    MessageView,
    NetworkView,
    PbdView,
    PifView,
    PoolView,
    SrView,
    TaskView,
    TunnelView,
    VbdView,
    VdiView,
    VifView,
    VlanView,
    VmView,
)
from poolcore.replica import State


class Tables:
    """One table of views per kind; what a table gives out does not change afterwards."""

    def _now(self) -> Picture:
        """The copy as it is now."""
        raise NotImplementedError

    @property
    def state(self) -> State:
        """The whole copy as a value; it has no request ids."""
        return self._now().state

    @property
    def revision(self) -> int:
        """The last commit that the copy contains."""
        return self._now().state.revision

    @property
    def pool(self) -> PoolView:
        """The pool."""
        picture = self._now()
        return PoolView(picture, picture.state.pool)

    @property
    def hosts(self) -> ViewTable[HostView]:
        """The hosts."""
        return ViewTable(self._now(), HostView)

    @property
    def host_metrics(self) -> ViewTable[HostMetricsView]:
        """What changes about hosts while they run."""
        return ViewTable(self._now(), HostMetricsView)

    @property
    def srs(self) -> ViewTable[SrView]:
        """The storage repositories."""
        return ViewTable(self._now(), SrView)

    @property
    def pbds(self) -> ViewTable[PbdView]:
        """The connections of hosts to storage repositories."""
        return ViewTable(self._now(), PbdView)

    @property
    def vdis(self) -> ViewTable[VdiView]:
        """The disk images."""
        return ViewTable(self._now(), VdiView)

    @property
    def networks(self) -> ViewTable[NetworkView]:
        """The networks."""
        return ViewTable(self._now(), NetworkView)

    @property
    def pifs(self) -> ViewTable[PifView]:
        """The interfaces."""
        return ViewTable(self._now(), PifView)

    @property
    def bonds(self) -> ViewTable[BondView]:
        """The bonds."""
        return ViewTable(self._now(), BondView)

    @property
    def vlans(self) -> ViewTable[VlanView]:
        """The VLANs."""
        return ViewTable(self._now(), VlanView)

    @property
    def tunnels(self) -> ViewTable[TunnelView]:
        """The tunnels."""
        return ViewTable(self._now(), TunnelView)

    @property
    def vms(self) -> ViewTable[VmView]:
        """The virtual machines."""
        return ViewTable(self._now(), VmView)

    @property
    def vbds(self) -> ViewTable[VbdView]:
        """The connections of VMs to disks."""
        return ViewTable(self._now(), VbdView)

    @property
    def vifs(self) -> ViewTable[VifView]:
        """The connections of VMs to networks."""
        return ViewTable(self._now(), VifView)

    @property
    def tasks(self) -> ViewTable[TaskView]:
        """The tasks."""
        return ViewTable(self._now(), TaskView)

    @property
    def messages(self) -> ViewTable[MessageView]:
        """The messages."""
        return ViewTable(self._now(), MessageView)

    @property
    def locks(self) -> ViewTable[LockView]:
        """The locks that are held."""
        return ViewTable(self._now(), LockView)

    @property
    def master_records(self) -> ViewTable[MasterRecordView]:
        """How masterships began."""
        return ViewTable(self._now(), MasterRecordView)
