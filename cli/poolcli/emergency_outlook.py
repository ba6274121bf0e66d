"""What a host would go on from, were it made master in an emergency, for people and scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolcli.output import fields, table, write
from poolcli.text import safe, wrapped

if TYPE_CHECKING:
    from poolcore.facts import EmergencyOutlook, Peer
    from poolcore.model import Incarnation


def outlook_json(outlook: EmergencyOutlook) -> dict[str, Any]:
    """The outlook as scripts get it; `in_step` is a host's name, or null."""
    return {
        "pool": outlook.pool_name,
        "incarnation": outlook.incarnation.counter,
        "revision": outlook.revision,
        "in_step": outlook.in_step,
        "may_lack": outlook.may_lack,
        "tail_from": outlook.tail_from,
        "tail_commits": outlook.tail_commits,
        "peers": [
            {
                "uuid": peer.uuid,
                "name": peer.name_label,
                "address": peer.address,
                "answers": peer.answers,
                "incarnation": peer.incarnation.counter if peer.incarnation else None,
                "revision": peer.revision if peer.incarnation else None,
            }
            for peer in outlook.peers
        ],
        "to_be_off": [peer.name_label for peer in outlook.to_be_off],
    }


def show_outlook(outlook: EmergencyOutlook, *, address: str) -> None:
    """The outlook as people get it; `address` is that of the host itself."""
    rows = [[outlook.name_label, "this host", *_place(outlook.incarnation, outlook.revision)]]
    rows[0].append(address)
    rows += [[*_row(peer), peer.address] for peer in outlook.peers]
    fields([("Pool", outlook.pool_name), ("In step", _in_step(outlook))])
    write("")
    table(["HOST", "ANSWERS", "INCARNATION", "REVISION", "ADDRESS"], rows)
    for paragraph in _paragraphs(outlook):
        write("\n" + wrapped(safe(paragraph)))


def _row(peer: Peer) -> list[str]:
    if not peer.answers:
        return [peer.name_label, "no", "", ""]
    return [peer.name_label, "yes", *_place(peer.incarnation, peer.revision)]


def _place(incarnation: Incarnation | None, revision: int) -> list[str]:
    return ["none", ""] if incarnation is None else [str(incarnation.counter), str(revision)]


def _in_step(outlook: EmergencyOutlook) -> str:
    if outlook.in_step is None:
        return f"no host, as far as {outlook.name_label} has heard"
    return f"{outlook.in_step}, when {outlook.name_label} last heard of the master"


def _paragraphs(outlook: EmergencyOutlook) -> list[str]:
    off = _names(outlook.to_be_off)
    found = [
        f"{outlook.name_label} would go on from revision {outlook.revision}. " + _missing(outlook)
    ]
    if outlook.tail_from is not None:
        found.append(
            f"The disk of {outlook.tail_from}'s etcd has {outlook.tail_commits} later changes, "
            f"up to revision {outlook.revision + outlook.tail_commits}. They are taken along, "
            "though nobody in reach can tell whether all of them were acknowledged."
        )
    if outlook.to_be_off:
        found.append(
            f"MUST BE SWITCHED OFF: {off}. A host that is only cut off may still act as the "
            "master: what it accepts now is not part of the pool any more, and its VMs run on."
        )
        found.append(
            f"VMs on {off} count as unknown until the host reports or is declared dead, and cannot "
            "be started elsewhere before. When its daemon starts again it becomes a member."
        )
    return found


def _missing(outlook: EmergencyOutlook) -> str:
    if outlook.may_lack:
        return (
            f"CHANGES MAY BE LOST: {_names(outlook.may_have_more)} may have later ones that no "
            "host has that could lead now. They are saved apart should such a host come back "
            "(`pool recovery list`). Start it instead if you can."
        )
    if not outlook.to_be_off:
        return "Every host of the pool answers, and none of them has more."
    return (
        f"{outlook.in_step} was in step: nothing that was acknowledged is missing if it was up and "
        "connected when the master was lost."
    )


def _names(peers: tuple[Peer, ...]) -> str:
    return ", ".join(peer.name_label for peer in peers)
