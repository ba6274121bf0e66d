"""Guests for lab hosts: a boot sector that ticks, ready in a tenth of a second and 41 MB small."""

from __future__ import annotations

from pathlib import Path

from support.lab_host import LabHost
from support.lab_network import until

_SECTOR_BYTES = 512
_DISK_BYTES = 1024 * 1024

# Eighteen times a second the machine's timer wakes the loop: it counts, writes the count to the
# second sector of the disk and a dot to the serial port.
_BOOT_CODE = bytes.fromhex(
    "31c0"                # xor  ax, ax
    "8ed8"                # mov  ds, ax
    "8ec0"                # mov  es, ax
    "8ed0"                # mov  ss, ax
    "bc007c"              # mov  sp, 7c00h
    "66c706007e00000000"  # mov  dword [7e00h], 0
    "fb"                  # sti
    "f4"                  # tick: hlt
    "66ff06007e"          # inc  dword [7e00h]
    "b80103"              # mov  ax, 0301h         write one sector
    "bb007e"              # mov  bx, 7e00h         from here
    "b90200"              # mov  cx, 0002h         to cylinder 0, sector 2
    "ba8000"              # mov  dx, 0080h         of head 0, first disk
    "cd13"                # int  13h
    "baf803"              # mov  dx, 03f8h
    "b02e"                # mov  al, '.'
    "ee"                  # out  dx, al
    "ebe4"                # jmp  tick
)  # fmt: skip


def disk_image() -> bytes:
    """A disk that boots into the ticking loop."""
    sector = _BOOT_CODE.ljust(_SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"
    return sector.ljust(_DISK_BYTES, b"\0")


def ticks(image: Path) -> int:
    """How often the guest on this disk has ticked since it booted."""
    with image.open("rb") as disk:
        disk.seek(_SECTOR_BYTES)
        return int.from_bytes(disk.read(4), "little")


def domain_xml(name: str, *, uuid: str, image: str, serial: str, mac: str) -> str:
    """A definition of a guest with the ticking disk, an empty CD drive and one NIC."""
    return f"""\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>8</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type><boot dev='hd'/></os>
  <cpu mode='custom'><model>qemu64</model></cpu>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{image}'/>
      <target dev='hda' bus='ide'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='hdc' bus='ide'/>
      <readonly/>
    </disk>
    <interface type='network'>
      <mac address='{mac}'/>
      <source network='default'/>
      <model type='e1000'/>
      <link state='down'/>
    </interface>
    <serial type='file'><source path='{serial}'/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def define_guest(host: LabHost, name: str, *, uuid: str) -> Path:
    """Define a guest on a host, halted, with its disk in the `default` pool; the disk's path."""
    image, xml = _guest(host, name, uuid)
    host.virsh("define", "/dev/stdin", input=xml)
    return image


def start_guest(host: LabHost, name: str, *, uuid: str, transient: bool = False) -> Path:
    """Run a guest and wait until it ticks; the path of its disk.

    A transient one has no definition and is gone when it stops.
    """
    image, xml = _guest(host, name, uuid)
    if "default" not in host.virsh("net-list", "--name").split():
        host.virsh("net-start", "default")
    if transient:
        host.virsh("create", "/dev/stdin", input=xml)
    else:
        host.virsh("define", "/dev/stdin", input=xml)
        host.virsh("start", name)
    until(lambda: ticks(image) > 0, seconds=20, what=f"the first tick of {name}")
    return image


def _guest(host: LabHost, name: str, uuid: str) -> tuple[Path, str]:
    image = host.images / f"{name}.img"
    image.write_bytes(disk_image())
    host.virsh("pool-refresh", "default")
    inside = f"/var/lib/libvirt/images/{image.name}"
    return image, domain_xml(
        name,
        uuid=uuid,
        image=inside,
        serial=f"/var/log/libvirt/{name}.serial",
        mac=f"52:54:00:{uuid[-6:-4]}:{uuid[-4:-2]}:{uuid[-2:]}",
    )
