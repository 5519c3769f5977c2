"""Which hosts a tenant's request may reach: public addresses on the web's ports, and what the operator allows.

The rules are those that Svix's and FastMCP's guards share, hardened against what `ipaddress.is_global` lets through
(multicast, 6to4, Teredo, NAT64, the metadata services of Azure and Alibaba).
"""

import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from django.core.exceptions import ImproperlyConfigured

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

WEB_PORTS = frozenset({80, 443})

# What IANA has given out as IPv6 global unicast (RFC 4291, 2.4): all else, NAT64 and IPv4-compatible included, is not it.
IPV6_GLOBAL_UNICAST = IPv6Network("2000::/3")
NOT_PUBLIC: tuple[IPNetwork, ...] = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598); Alibaba's metadata service
        "168.63.129.16/32",  # Azure's virtual public address of the host
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
        "192.88.99.0/24",  # 6to4 relay anycast (RFC 7526)
        "2001::/23",  # IETF protocol assignments, Teredo among them (RFC 4380)
        "2002::/16",  # 6to4 (RFC 3056): carries an IPv4 address that the rules would not see
        "3fff::/20",  # documentation (RFC 9637)
        "64:ff9b::/96",  # NAT64 (RFC 6052)
        "64:ff9b:1::/48",  # NAT64 for local use (RFC 8215)
        "5f00::/16",  # segment routing (RFC 9602)
        "100::/64",  # discard only (RFC 6666)
    )
)

_NUMERIC_LABEL = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")


def canonical(address: IPAddress) -> IPAddress:
    """An IPv4 address written as IPv6 (`::ffff:10.0.0.1`), as the IPv4 address that a connection would reach."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_public(address: IPAddress) -> bool:
    """Whether it is on the open internet, as far as its number tells."""
    address = canonical(address)
    if isinstance(address, IPv6Address) and (address.scope_id or address not in IPV6_GLOBAL_UNICAST):
        return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in NOT_PUBLIC)


def literal_address(host: str) -> IPAddress | None:
    """The address that `host` spells out, in any form that a resolver takes: `127.1`, `0x7f.1`, `017700000001`.

    None for a name. Raises `ValueError` for a host that ends in a number, as only an address may (WHATWG URL, 3.5), and
    is none.
    """
    host = host.strip("[]").rstrip(".")
    try:
        return ip_address(host)
    except ValueError:
        if not _NUMERIC_LABEL.fullmatch(host.rsplit(".", 1)[-1]):
            return None
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        raise ValueError(f"{host} is not a valid address") from None


@dataclass(frozen=True, slots=True)
class AllowEntry:
    """A host name or a network, at one port or (None) at all."""

    host: str | None
    network: IPNetwork | None
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "AllowEntry":
        """`host`, `host:port`, an address, a CIDR, or one of these with `:port` (IPv6 in brackets).

        Raises `ImproperlyConfigured`.
        """
        entry = text.strip().lower()
        if (network := _network(entry)) is not None:
            return cls(None, network, None)
        place, colon, port_text = entry.rpartition(":")
        if not colon:
            place, port = entry, None
        elif port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536:
            port = int(port_text)
        else:
            raise ImproperlyConfigured(f"BLOX_HTTP_ALLOW: {text!r} has no valid port after its colon.")
        if (network := _network(place.strip("[]"))) is not None:
            return cls(None, network, port)
        if not _HOST_NAME.fullmatch(place):
            raise ImproperlyConfigured(f"BLOX_HTTP_ALLOW: {text!r} is not a host, host:port, address or CIDR.")
        return cls(place, None, port)


def _network(text: str) -> IPNetwork | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class AllowList:
    """What an operator lets flows reach: the public web, and beyond it what is listed."""

    entries: tuple[AllowEntry, ...] = ()
    web_ports: frozenset[int] = WEB_PORTS

    def allows_host(self, host: str, port: int) -> bool:
        """Whether the name is listed: then it may resolve to anything."""
        host = host.lower().rstrip(".")
        return any(entry.host == host and entry.port in (None, port) for entry in self.entries)

    def allows_address(self, address: IPAddress, port: int) -> bool:
        """Whether a connection to this address may be made: it is listed, or it is public and the port the web's."""
        address = canonical(address)
        if is_public(address) and port in self.web_ports:
            return True
        return any(
            entry.network is not None and address in entry.network and entry.port in (None, port)
            for entry in self.entries
        )


@lru_cache(maxsize=16)
def parse_allow_list(entries: tuple[str, ...]) -> AllowList:
    """The setting `BLOX_HTTP_ALLOW`, read. Raises `ImproperlyConfigured` naming the entry that is wrong."""
    return AllowList(tuple(AllowEntry.parse(entry) for entry in entries if entry.strip()))
