"""Where webhooks may go. Pure; nothing is resolved here.

    Target     a URL taken apart by one strict form, so that no two readers can differ about its host
    Allowed    what the operator lists: hosts may be named, networks may be reached though they are not public
    at submit  the form, and that the host is listed
    at send    both once more, and that every address the host resolves to is public or in a listed network

A listed name says nothing of its addresses, which whoever runs its DNS chooses: hence both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self

MAX_URL_CHARS: Final = 2048
_PORT_OF: Final = {"http": 80, "https": 443}

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_FORM: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
    r"(?P<rest>([/?][A-Za-z0-9._~:/?@!$&'()*+,;=%\[\]-]*)?)",
    re.IGNORECASE | re.ASCII,
)
_NAME: Final = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

# What is no address of the public internet's (IANA's registries for special purposes), multicast, and the one address
# that clouds use for their own in the midst of public ones (Azure).
_NOT_PUBLIC: Final = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        "168.63.129.16/32",
        # IPv6: 2001::/23 has Teredo and others, 2002::/16 is 6to4, whose inner address a gateway would go to.
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """A webhook's URL taken apart; `host` is a lower-case name or an address, without brackets or a last dot."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query; never logged, for both hold secrets of the receiver's."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError that says what is wrong, without the URL."""
        if len(url) > MAX_URL_CHARS:
            raise ValueError(f"has {len(url):,} characters; {MAX_URL_CHARS} are the most")
        found = _FORM.fullmatch(url)
        if found is None:
            raise ValueError(_wrong_form(url))
        scheme, host = found["scheme"].lower(), _host(found["host"])
        port = int(found["port"]) if found["port"] else _PORT_OF[scheme]
        if not 1 <= port <= 65535:
            raise ValueError(f"has port {port}; ports go from 1 to 65535")
        rest = found["rest"]
        return cls(scheme, host, port, rest if rest.startswith("/") else f"/{rest}")

    @property
    def literal(self) -> Address | None:
        """The address where the host is one."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """What goes into `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORT_OF[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True)
class Allowed:
    """What the operator allows; nothing: webhooks are off."""

    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """From names, `*.example.com`, `*`, addresses and networks. Raises ValueError that names the entry."""
        names: set[str] = set()
        suffixes: list[str] = []
        networks: list[Network] = []
        for entry in entries:
            if (network := _network(entry)) is not None:
                networks.append(network)
            elif entry == "*" or (entry.startswith("*.") and _is_name(entry[2:].lower())):
                suffixes.append(entry[1:].lower())
            elif _is_name(entry.lower()):
                names.add(entry.lower())
            else:
                raise ValueError(
                    f"{entry!r} is neither a host nor a network; write hooks.example.com, *.example.com, 10.0.0.0/8 or "
                    "one address, without scheme, port or path"
                )
        return cls(frozenset(names), tuple(suffixes), tuple(networks))

    def __bool__(self) -> bool:
        return bool(self.names or self.suffixes or self.networks)

    def refusal(self, target: Target) -> str | None:
        """Why the target's host may not be named, None where it may."""
        address = target.literal
        if address is not None:
            if self._lists(address):
                return None
            return f"goes to {target.host}, in no network that the operator of this server allows"
        if target.host in self.names or target.host.endswith(self.suffixes):
            return None
        return f"goes to {target.host}, no host that the operator of this server allows"

    def reaches(self, address: Address) -> bool:
        """Whether a listed name may lead to this address."""
        return self._lists(address) or is_public(address)

    def _lists(self, address: Address) -> bool:
        inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any((inner or address) in network for network in self.networks)


NOTHING_ALLOWED: Final = Allowed()


@cache
def allowed(entries: tuple[str, ...]) -> Allowed:
    """What a setting allows, read once."""
    return Allowed.parse(entries)


def shown(url: str) -> str:
    """As much of a URL as may be logged: path and query hold secrets of the receiver's."""
    try:
        target = Target.parse(url)
    except ValueError as error:
        return f"a URL that {error}"
    return f"{target.scheme}://{target.authority}"


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet; what wraps another is judged by what it wraps."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_UNICAST or address.scope_id is not None or _is_isatap(address):
            return False
    return not any(address in network for network in _NOT_PUBLIC)


def _is_isatap(address: IPv6Address) -> bool:
    """Whether its lower half wraps an IPv4 address, which a tunnel's end would go to."""
    return (int(address) >> 32) & 0xFCFFFFFF == 0x00005EFE


def _host(text: str) -> str:
    """The host as it is compared, resolved and verified."""
    host = text.strip("[]").removesuffix(".").lower()
    is_bracketed = text.startswith("[")
    with suppress(ValueError):
        return str(IPv6Address(host) if is_bracketed else IPv4Address(host))
    # Resolvers read 0x7f.1, 127.1, 017700000001 and 2130706433 as addresses: a name does not end in a number.
    if is_bracketed or _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise ValueError(f"has a host, {host[:60]}, that is no address in its usual form; write four decimal numbers")
    if not _NAME.fullmatch(host):
        raise ValueError(f"has a host, {host[:60]}, that is no host name")
    return host


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and not _NUMBER.fullmatch(text.rpartition(".")[2])


def _network(entry: str) -> Network | None:
    text = entry.strip("[]") if "/" not in entry else entry
    try:
        return ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            fitting = ip_network(text, strict=False)
            raise ValueError(f"{entry!r} is no network, for {error}; write {fitting}") from error
        return None


def _wrong_form(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _PORT_OF:
        return "must begin with https:// or http://"
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in authority:
        return "must not hold credentials; what is sent is signed, verify that instead"
    if "#" in rest:
        return "must not have a fragment (#…); remove it"
    if not url.isascii():
        return "must be ASCII; write the host in its xn-- form and percent-encode the rest"
    return "is no URL that can be sent to; write https://HOST/PATH, and percent-encode what is not plain"
