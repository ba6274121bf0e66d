"""References in a pool's state that point at nothing."""

from collections.abc import Iterator, Mapping

from poolcore.model import Kind, Object
from poolcore.replica import State

REFERENCES: Mapping[Kind, Mapping[str, Kind]] = {
    Kind.POOL: {"default_sr": Kind.SR},
    Kind.HOST_METRICS: {"host": Kind.HOST},
    Kind.PBD: {"host": Kind.HOST, "sr": Kind.SR},
    Kind.VDI: {"sr": Kind.SR},
    Kind.PIF: {"host": Kind.HOST, "network": Kind.NETWORK},
    Kind.BOND: {"master": Kind.PIF, "slaves": Kind.PIF},
    Kind.VLAN: {"tagged_pif": Kind.PIF, "untagged_pif": Kind.PIF},
    Kind.TUNNEL: {"access_pif": Kind.PIF, "transport_pif": Kind.PIF},
    Kind.VM: {"resident_on": Kind.HOST},
    Kind.VBD: {"vm": Kind.VM, "vdi": Kind.VDI},
    Kind.VIF: {"vm": Kind.VM, "network": Kind.NETWORK},
}
"""What must exist. A task's subject and a message's object are history and may be gone."""


def dangling(state: State) -> list[str]:
    """Every reference to something that is not there, as `kind uuid.field → kind uuid`."""
    return [
        f"{obj.KIND} {obj.uuid}.{field} → {kind} {target}"
        for obj in state.objects()
        for field, kind in REFERENCES.get(obj.KIND, {}).items()
        for target in _targets(obj, field)
        if (kind, target) not in state
    ]


def _targets(obj: Object, field: str) -> Iterator[str]:
    value = getattr(obj, field)
    if isinstance(value, tuple):
        yield from value
    elif value is not None:
        yield value
