"""Which URLs may be requested: they come from third parties and must not reach the network this process runs in."""

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

_HOST_NAME = re.compile(r"[a-z0-9._-]{1,253}")
# inet_aton, and so getaddrinfo, may read these as IPv4 addresses: 127.1, 2130706433, 0x7f.1
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# Some versions of Python call these global. Teredo and 6to4 embed an IPv4 address; no server needs them today.
_NOT_PUBLIC = (IPv4Network("192.0.0.0/24"), IPv6Network("2001::/32"), IPv6Network("2002::/16"))


class ForbiddenUrl(ValueError):  # noqa: N818 - named like the row status it leads to
    """A URL that must not be requested; the text says why."""


class PrivateAddress(OSError):  # noqa: N818 - named after what was found, like its neighbours in aiohttp
    """A host name resolves to no address on the public Internet."""


@dataclass(frozen=True)
class HostRules:
    """The hosts that may be requested, over https and at public addresses only.

    A redirect's target is a new URL to check: send requests with allow_redirects=False.

    Args:
        allowed_hosts: "image.tmdb.org" allows port 443, "image.tmdb.org:8443" and "[::1]:80" that port only.
        allow_private: also allow http, private addresses, and any port of a host listed without one; for tests.

    Raises:
        InputError: an entry of allowed_hosts is not a host.
    """

    allowed_hosts: tuple[str, ...]
    allow_private: bool = False

    def __post_init__(self) -> None:
        """Reject mistyped hosts early."""
        for entry in self.allowed_hosts:
            _parse_entry(entry)

    def check(self, url: str) -> URL:
        """Parse a URL and check it.

        Request the URL object that is returned, not the text: then no second parser can read another host in it.

        Raises:
            ForbiddenUrl: it must not be requested.
        """
        parsed = _parse(url)
        if parsed.scheme != "https" and not (self.allow_private and parsed.scheme == "http"):
            raise ForbiddenUrl(f"{parsed.scheme} instead of https")
        host = _host(parsed)
        ports = {port for allowed, port in map(_parse_entry, self.allowed_hosts) if allowed == host}
        if not ports:
            raise ForbiddenUrl(f"{host} is not an allowed host")
        if parsed.port not in ports and not (None in ports and (self.allow_private or parsed.port == 443)):
            raise ForbiddenUrl(f"port {parsed.port} of {host} is not allowed")
        # aiohttp does not ask the resolver about a URL that contains an address.
        if not self.allow_private and _is_address(host) and not _is_public(host):
            raise ForbiddenUrl(f"{host} is not a public address")
        return parsed

    def resolver(self, inner: AbstractResolver | None = None) -> AbstractResolver:
        """A resolver that returns public addresses only, unless allow_private; call it inside an event loop.

        Addresses are checked at resolution because a name may point elsewhere between a check and the request.
        The session raises ClientConnectorDNSError with a PrivateAddress as its os_error.

        Args:
            inner: queries the name servers; default: aiohttp's own resolver.
        """
        inner = inner or DefaultResolver()
        return inner if self.allow_private else _PublicResolver(inner)


class _PublicResolver(AbstractResolver):
    def __init__(self, inner: AbstractResolver):
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = await self._inner.resolve(host, port, family)
        public = [address for address in addresses if _is_public(address["host"])]
        if not public:
            raise PrivateAddress(errno.EACCES, "resolves to no public address")
        return public

    async def close(self) -> None:
        await self._inner.close()


@functools.cache
def _parse_entry(entry: str) -> tuple[str, int | None]:
    """Host and port (None if not given) of an entry of allowed_hosts."""
    try:
        url = _parse(f"https://{entry}")
        host = _host(url)
        is_name = _HOST_NAME.fullmatch(host) and not _NUMERIC.fullmatch(host)
        if re.search("[/?]", entry) or not (is_name or _is_address(host)):
            raise ForbiddenUrl("not a host name or address")
    except ForbiddenUrl as error:
        raise InputError(
            f"allowed_hosts: {entry!r}: {error}; expected a host such as image.tmdb.org or 127.0.0.1:8080"
        ) from None
    return host, url.explicit_port


def _parse(url: str) -> URL:
    """The URL as yarl, and so aiohttp, reads it; characters and parts on which parsers disagree are refused."""
    if not url.isprintable() or " " in url or "\\" in url:
        raise ForbiddenUrl("a space, control character or backslash in the URL")
    try:
        parsed = URL(url)
    except ValueError:
        raise ForbiddenUrl("not a URL") from None
    if not (parsed.scheme and parsed.absolute):
        raise ForbiddenUrl("not an absolute URL")
    if "#" in url:
        raise ForbiddenUrl("a fragment in the URL")
    # In the text, because yarl drops an empty user name.
    if "@" in re.split("[/?]", url.partition("//")[2])[0]:
        raise ForbiddenUrl("a user name in the URL")
    return parsed


def _host(url: URL) -> str:
    """The host that will be requested: lower case, IDNA-encoded, without the final dot of a fully qualified name."""
    return (url.raw_host or "").removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(address: str) -> bool:
    """Whether an IP address, and any IPv4 address embedded in an IPv6 one, is on the public Internet."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped or ip in _NAT64:
            ip = IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)
