"""The options of `poolmember`, each with the sentence that explains it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """How a command writes its data."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people, or for scripts.")]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings: the options of `poolmember run` as keys, with _ for -. A flag wins over "
        "the environment (POOLMEMBER_NAME …), and that over the file. "
        "Default: /etc/poolmember/config.toml, if it is there.",
    ),
]
StateDirOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Where the host's identity, its replica and its store are: a local disk, one "
        "directory per daemon. Default: /var/lib/poolmember, with the API socket in "
        "/run/poolmember; in a directory given here the socket is DIR/api.sock.",
    ),
]
NameOption = Annotated[
    str | None, typer.Option(help="The host's name in the pool. Default: the short host name.")
]
ListenOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR[:PORT]",
        help="Where hosts and clients connect. Default: 127.0.0.1:7443. Anything beyond loopback "
        "needs --insecure as long as connections are not encrypted.",
    ),
]
AdvertiseOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR[:PORT]",
        help="Where other hosts reach this one. Default: the address of --listen; needed if that "
        "is 0.0.0.0, or behind address translation.",
    ),
]
DriverOption = Annotated[
    str | None,
    typer.Option(
        metavar="libvirt[:URI]|sim[:FILE]|none",
        help="The hypervisor. Default: libvirt, at qemu:///system; none for a witness, which needs "
        "no hypervisor. `sim` simulates a host, as FILE describes it.",
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        metavar="etcd:HOST:PORT,…|sqlite:///PATH",
        help="For the host that founds a pool: an etcd cluster of yours in which the pool keeps "
        "its metadata (?prefix=, &ca=, &cert=, &key= behind it), or a file that the daemons of "
        "this machine share. Default: a file in the state directory, for this host alone.",
    ),
]
WitnessOption = Annotated[
    bool | None,
    typer.Option(
        "--witness/--no-witness",
        help="The host votes when a master is elected and keeps a replica; it runs no VMs, brings "
        "nothing into the pool and never becomes its master. It waits until `pool add-host` takes "
        "it in.",
        show_default=False,
    ),
]
VoterOption = Annotated[
    bool | None,
    typer.Option(
        "--voter/--no-voter",
        help="Whether this host may run a member of the pool's own etcd, in which a pool of three "
        "hosts and more keeps its metadata: it listens at the two ports after that of --listen. "
        "Default: it may, if etcd is installed.",
        show_default=False,
    ),
]
InsecureOption = Annotated[
    bool | None,
    typer.Option(
        "--insecure/--no-insecure",
        help="Listen beyond loopback although whoever reaches the port rules the pool.",
        show_default=False,
    ),
]
LogFormatOption = Annotated[
    str | None,
    typer.Option(metavar="text|json", help="One line an event, on stderr. Default: text."),
]
LogLevelOption = Annotated[
    str | None,
    typer.Option(
        metavar="debug|info|warning|error",
        help="From which severity on events are written. Default: info.",
    ),
]
BuiltinSrsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,NAME…]",
        help="Storage pools that every fresh host has, besides libvirt's `default`: they are no "
        "obstacle to joining a pool.",
    ),
]
HistoryRevisionsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER",
        help="For the host that founds a pool: how many commits the pool remembers. A host that "
        "was away for longer gets everything anew, and a request that is older than that cannot "
        "be repeated. Default: 10000.",
    ),
]
HooksDirOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Executables that are run when this host's place in the pool changes: became-master, "
        "lost-master, master-changed, joined-pool, left-pool. Default: /etc/poolmember/hooks.d; "
        "with --state-dir DIR, DIR/hooks.d.",
    ),
]
HookSecondsOption = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS", help="How long each of them may take before it is ended. Default: 30."
    ),
]
DumpOption = Annotated[
    bool,
    typer.Option(
        "--dump",
        help="Instead, print the replica's whole content in canonical form (JSON Lines): equal "
        "text at two hosts means equal replicas.",
    ),
]
KeepVmsOption = Annotated[
    bool,
    typer.Option(
        "--keep-vms",
        help="Go on although the host has VMs. They stay as they are, running or not; the pool "
        "that it founds next lists them.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
