"""Addresses: on which of its own a machine listens, and which are nobody else's."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from medseg.errors import InputError

ANYWHERE = "192.0.2.1"  # a documentation address (RFC 5737): a UDP socket that is "connected" to it sends nothing


def own_address(interface: str) -> str:
    """The address on which workers reach this machine: that of `interface`, else the one of its route to others.

    Raises:
        InputError: there is no such interface, or no route to other machines.
    """
    if interface:
        return _of_interface(interface)
    try:
        return reaching(f"tcp://{ANYWHERE}:9")
    except OSError:
        what = "this machine has no route to others"
        raise InputError(what, fix="name the network that the machines share with --interface") from None


def reaching(address: str) -> str:
    """The address of this machine from which it reaches `protocol://host:port`; nothing is sent.

    Raises:
        OSError: there is no route.
    """
    to = urlsplit(address)
    family, _, _, _, place = socket.getaddrinfo(to.hostname, to.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def _of_interface(interface: str) -> str:
    from distributed.utils import get_ip_interface

    try:
        return str(get_ip_interface(interface))
    except ValueError:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise InputError(f"--interface {interface} is none of this machine", fix=f"it has {known}") from None


def is_loopback(address: str) -> bool:
    """Whether `protocol://host:port` names this machine itself, where no other can listen in."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
