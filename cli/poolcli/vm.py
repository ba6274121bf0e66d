"""Virtual machines."""

from __future__ import annotations

from poolcli.nouns import Noun, noun_app
from poolcli.text import size

app = noun_app(
    Noun(
        name="vm",
        help="Virtual machines.",
        columns={
            "NAME": lambda vm, _: vm.name_label,
            "POWER STATE": lambda vm, _: vm.power_state,
            "HOST": lambda vm, others: others.name(vm.resident_on),
            "VCPUS": lambda vm, _: str(vm.vcpus_max),
            "MEMORY": lambda vm, _: size(vm.memory_static_max),
        },
        needs=("host",),
        writable=True,
    )
)
