"""What every check looks at, and how it words what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from poolcore.facts import HostFacts, HostProfile
from poolcore.model import (
    PIF,
    Finding,
    Host,
    Object,
    Severity,
)
from poolcore.replica import State
from poolmaster.decide.preflight.codes import Code

T = TypeVar("T", bound=Object)

SHOWN_LENGTH = 80
LISTED = 50
"""How many objects of one kind get a finding each; the rest share one, so that an answer about a
host with ten thousand VMs can still be sent and read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One host that wants to join one pool."""

    pool: State
    joining: HostFacts
    master: Host
    """The pool's master; what has to be equal everywhere is compared with it."""
    would_vote: bool = False
    """Whether the pool's own etcd is to have a member on the joining host."""

    @property
    def profile(self) -> HostProfile:
        """What the joining host's driver says it is."""
        return self.joining.inventory.profile

    @property
    def name(self) -> str:
        """The joining host's name, fit for a sentence."""
        return shown(self.joining.name_label)

    @property
    def pool_name(self) -> str:
        """The pool's name, fit for a sentence."""
        return shown(self.pool.pool.name_label)

    @property
    def is_simulated(self) -> bool:
        """Whether the host is described by a file, which is then where things are put right."""
        return self.profile.hypervisor.kind == "sim"

    @property
    def is_own_member(self) -> bool:
        """Whether the host is in this pool already (row 5); it then duplicates only itself."""
        return self.joining.pool == self.pool.pool.uuid

    def found(self, cls: type[T]) -> list[T]:
        """The objects of a class on the joining host, in the order of their uuids."""
        objects = self.joining.inventory.objects
        return sorted((o for o in objects if isinstance(o, cls)), key=lambda o: o.uuid)

    def finding(
        self,
        code: Code,
        *,
        expected: str,
        actual: str,
        explanation: str,
        remedy: str,
        subject: str | None = None,
        severity: Severity = Severity.ERROR,
        forceable: bool = False,
    ) -> Finding:
        """A finding about `subject`; without one, about the host itself."""
        return Finding(
            code=code.value,
            severity=severity,
            subject=self.name if subject is None else subject,
            expected=expected,
            actual=actual,
            explanation=explanation,
            remedy=remedy,
            forceable=forceable,
        )


Check = Callable[[Case], Iterator[Finding]]


def one_each(
    objects: Sequence[T],
    finding: Callable[[T], Finding],
    rest: Callable[[int], Finding],
) -> Iterator[Finding]:
    """A finding for each object, or for the first `LISTED` and one for the number of the others."""
    listed = objects if len(objects) <= LISTED else objects[: LISTED - 1]
    yield from (finding(obj) for obj in listed)
    if len(objects) > len(listed):
        yield rest(len(objects) - len(listed))


def shown(text: str) -> str:
    """A name from elsewhere as it may stand in a sentence, a table or a comment of a script.

    Control characters become visible, backquotes (which mark commands in remedies) plain quotes,
    and what is very long is cut.
    """
    plain = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text).replace("`", "'")
    return plain if len(plain) <= SHOWN_LENGTH else plain[: SHOWN_LENGTH - 1] + "…"


def listing(names: Iterable[str]) -> str:
    """Names in a sentence, sorted: `a, b, c`; cut after twenty."""
    all_names = sorted(shown(name) for name in names)
    more = len(all_names) - 20
    return ", ".join(all_names[:20]) + (f" and {more} more" if more > 0 else "")


def management_interfaces(pifs: Iterable[PIF]) -> list[PIF]:
    """The interfaces that carry a host's management address, those with the address first."""
    carrying = [pif for pif in pifs if pif.management]
    return sorted(carrying, key=lambda p: (not p.addresses, p.vlan is None, p.device))
