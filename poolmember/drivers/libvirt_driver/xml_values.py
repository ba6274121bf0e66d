"""Reading values out of libvirt's XML: elements, texts and sizes."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

_UNIT_BYTES = {
    "b": 1,
    "bytes": 1,
    "KB": 10**3,
    "k": 2**10,
    "KiB": 2**10,
    "MB": 10**6,
    "M": 2**20,
    "MiB": 2**20,
    "GB": 10**9,
    "G": 2**30,
    "GiB": 2**30,
    "TB": 10**12,
    "T": 2**40,
    "TiB": 2**40,
    "PB": 10**15,
    "P": 2**50,
    "PiB": 2**50,
    "EB": 10**18,
    "E": 2**60,
    "EiB": 2**60,
}


def parsed(xml: str) -> Element:
    """The root element. Raises `ElementTree.ParseError`."""
    # What libvirt answers was written by libvirt itself: no entities, no external references.
    return ElementTree.fromstring(xml)  # noqa: S314


def text(parent: Element, path: str, default: str = "") -> str:
    """The text of the first element at `path`."""
    return (parent.findtext(path) or default).strip()


def attribute(parent: Element, path: str, name: str, default: str = "") -> str:
    """An attribute of the first element at `path`."""
    element = parent.find(path)
    return default if element is None else element.get(name, default)


def size_bytes(parent: Element, path: str, *, default_unit: str = "bytes") -> int:
    """The size in the first element at `path`, with its unit; 0 without such an element."""
    element = parent.find(path)
    if element is None:
        return 0
    return int(element.text or 0) * _UNIT_BYTES[element.get("unit", default_unit)]
