"""Commands that are not there: what was probably meant, also by people from `xe` and `pvecm`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

NOUNS = (
    "host", "sr", "pbd", "vdi", "network", "pif", "bond", "vlan", "tunnel", "vm", "vbd", "vif",
    "task", "message", "lock",
)  # fmt: skip

_ELSEWHERE = {
    # xe
    "pool-join": "add-host",
    "pool-eject": "eject-host",
    "pool-designate-new-master": "designate-master",
    "pool-emergency-transition-to-master": "emergency-transition-to-master",
    "pool-emergency-reset-master": "emergency-reset-master ADDRESS",
    "pool-recover-slaves": "recover-members",
    "pool-list": "show",
    "pool-param-list": "show",
    "pool-param-get": "show",
    "pool-param-set": "set",
    "pool-dump-database": "metadata backup FILE",
    "pool-restore-database": "metadata restore FILE",
    "host-forget": "host forget",
    "host-declare-dead": "host declare-dead",
    "host-disable": "host maintenance HOST",
    "host-evacuate": "host maintenance HOST",
    "host-enable": "host maintenance HOST --off",
    "event-wait": "wait",
    "task-cancel": "task cancel",
    # pvecm and its siblings
    "add": "add-host",
    "addnode": "add-host",
    "delnode": "eject-host",
    "nodes": "host list",
    "join": "add-host",
    "eject": "eject-host",
    "leave": "eject-host",
    "remove-host": "eject-host",
    "del-host": "eject-host",
    "node-maintenance": "host maintenance HOST",
    # what people try
    "backup": "metadata backup FILE",
    "restore": "metadata restore FILE",
    "emergency-transition": "emergency-transition-to-master",
    "recover-slaves": "recover-members",
    "reset-master": "emergency-reset-master ADDRESS",
    "promote": "designate-master HOST",
    "maintenance": "host maintenance HOST",
    "list": "host list",
    "hosts": "host list",
    "vms": "vm list",
    "srs": "sr list",
    "storage": "sr list",
    "networks": "network list",
    "tasks": "task list",
    "locks": "lock list",
    "info": "status",
    "watch": "events",
    "config": "context list",
    "login": "context add",
    "version": "--version",
    "rename": "set name_label=NAME",
    "failover": "drill failover",
    "drill-failover": "drill failover",
    "failover-drill": "drill failover",
    "test-failover": "drill failover",
}

_VERBS = {
    "disable": "maintenance HOST",
    "evacuate": "maintenance HOST",
    "drain": "maintenance HOST",
    "enable": "maintenance HOST --off",
}
"""What is meant below a noun that has the command, such as `pool host`."""

_WITHOUT = {
    "create": "There is nothing to create: every host is a pool of one, ready to take in others "
    "with `pool add-host`.",
    "pool-create": "There is nothing to create: every host is a pool of one.",
    "expected": "There are no expected votes to set. A pool that has lost its quorum goes on with "
    "`pool emergency-transition-to-master`, run at the host that is to be master.",
    "qdevice": "A host that votes and runs no VMs is started with `poolmember run --witness`.",
    "updatecerts": "This release has no certificates to update.",
}


def suggestion(path: Sequence[str], args: Sequence[str], known: Sequence[str]) -> tuple[str, str]:
    """What to say to `pool PATH… ARGS…`, where the first of `args` is none of the `known`."""
    words = list(args)
    if not path and words[0] in {"xe", "pvecm", "qm", "pvesm"} and len(words) > 1:
        words = words[1:]
    word = words[0]
    message = f"There is no command {' '.join(('pool', *path, args[0]))!r}."
    if not path:
        if word in known:
            return message, f"Did you mean `pool {' '.join(words)}`?"
        if word in _WITHOUT:
            return message, _WITHOUT[word]
        meant = _ELSEWHERE.get(word) or _of_xe(word)
        if meant:
            return message, f"Did you mean `pool {meant}`?"
    elif word in {"param-list", "param-get", "get", "info"} and "show" in known:
        return message, f"Did you mean `{' '.join(('pool', *path, 'show'))}`?"
    elif word in _VERBS and _VERBS[word].split()[0] in known:
        return message, f"Did you mean `{' '.join(('pool', *path, _VERBS[word]))}`?"
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    if len(close) == 2 and _likeness(word, close[0]) > _likeness(word, close[1]) + 0.1:
        close = close[:1]  # the one is clearly what was meant
    if close:
        options = " or ".join(f"`{' '.join(('pool', *path, c))}`" for c in close)
        return message, f"Did you mean {options}?"
    return message, f"`{' '.join(('pool', *path, '--help'))}` lists what there is."


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _of_xe(word: str) -> str:
    """`xe`'s `vm-list`, `sr-param-set` and the like as `vm list`, `sr set`."""
    noun, _, verb = word.partition("-")
    if noun not in NOUNS:
        return ""
    verbs = {"list": "list", "param-list": "show", "param-get": "show", "param-set": "set"}
    verbs |= {"param-add": "set", "param-remove": "set", "param-clear": "set"}
    return f"{noun} {verbs[verb]}" if verb in verbs else ""
