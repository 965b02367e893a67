"""Which hosts may be asked: URLs come from others, and must not lead into the network this runs in."""

import errno
import functools
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import DefaultResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from mmgenre.errors import InputError

_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_HOST = re.compile(r"[a-z0-9._:-]{1,253}")
# What inet_aton, and so getaddrinfo, may take for an IPv4 address: 127.1, 2130706433, 0x7f.1
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# Global to some versions of Python. Teredo and 6to4 lead to the IPv4 address within, and no server needs them today.
_NOT_PUBLIC = (IPv4Network("192.0.0.0/24"), IPv6Network("2001::/32"), IPv6Network("2002::/16"))


class PrivateAddress(OSError):  # noqa: N818 - says what was found, like its neighbours in aiohttp
    """A name resolves to no address of the public Internet."""


@dataclass(frozen=True)
class HostRules:
    """The hosts that may be asked, over https, at public addresses.

    A server's redirects are URLs too: ask with allow_redirects=False.

    Args:
        allowed_hosts: "image.tmdb.org" for port 443, "image.tmdb.org:8443" for that port, "[::1]:80".
        allow_private: the hosts may also be asked over http, at private addresses, and at any port
            where they name none; for tests.

    Raises:
        InputError: an allowed host is none.
    """

    allowed_hosts: tuple[str, ...]
    allow_private: bool = False

    def __post_init__(self) -> None:
        """Complain of a mistyped host at once."""
        for entry in self.allowed_hosts:
            _entry(entry)

    def refusal(self, url: str) -> str | None:
        """Why the URL may not be asked, in a few words; None when it may."""
        try:
            asked = _parse(url)
        except ValueError as error:
            return str(error)
        if asked.scheme != "https" and not (self.allow_private and asked.scheme == "http"):
            return f"{asked.scheme} instead of https"
        host = _host(asked)
        ports = {port for allowed, port in map(_entry, self.allowed_hosts) if allowed == host}
        if not ports:
            return f"{host} is not an allowed host"
        if asked.port not in ports and not (None in ports and (self.allow_private or asked.port == 443)):
            return f"port {asked.port} of {host} is not allowed"
        if not self.allow_private and _address(host) and not _is_public(host):
            return f"{host} is not a public address"
        return None

    def resolver(self, inner: AbstractResolver | None = None) -> AbstractResolver:
        """Resolves names, to public addresses only unless allow_private; made where an event loop runs.

        What a name resolves to is checked here, because it may change between a check and a request.
        The session raises ClientConnectorDNSError, whose os_error is then a PrivateAddress.

        Args:
            inner: asks the name servers; aiohttp's own choice when it is None.
        """
        inner = inner or DefaultResolver()
        return inner if self.allow_private else _PublicResolver(inner)


class _PublicResolver(AbstractResolver):
    def __init__(self, inner: AbstractResolver):
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        public = [address for address in found if _is_public(address["host"])]
        if not public:
            raise PrivateAddress(errno.EACCES, "resolves to no public address")
        return public

    async def close(self) -> None:
        await self._inner.close()


@functools.cache
def _entry(entry: str) -> tuple[str, int | None]:
    """An allowed host, and its port if it names one."""
    try:
        if re.search("[/?]", entry):
            raise ValueError("a URL")
        url = _parse(f"https://{entry}")
    except ValueError as error:
        raise InputError(
            f"allowed_hosts: {entry!r}: {error}; expected a host such as image.tmdb.org or 127.0.0.1:8080"
        ) from None
    return _host(url), url.explicit_port


def _parse(url: str) -> URL:
    """The URL as aiohttp will ask it, for which yarl parses it; ValueError where readers may disagree on it."""
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("a space, control character or backslash in the URL")
    authority = _AUTHORITY.match(url)
    if authority is None:
        raise ValueError("not an absolute URL")
    if "@" in authority[1]:
        raise ValueError("a user name in the URL")
    if "#" in url:
        raise ValueError("a fragment in the URL")
    try:
        parsed = URL(url)
    except ValueError:
        raise ValueError("not a URL") from None
    host = _host(parsed)
    if not _HOST.fullmatch(host) or (_address(host) is None and (":" in host or _NUMERIC.fullmatch(host))):
        raise ValueError("not a host name or address")
    return parsed


def _host(url: URL) -> str:
    """The host that will be asked, in lower case and IDNA, without the dot that ends a full name."""
    return (url.raw_host or "").removesuffix(".")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_public(address: str) -> bool:
    """Whether an address, and the IPv4 address that an IPv6 one may stand for, is on the public Internet."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped or ip in _NAT64:
            ip = IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)
