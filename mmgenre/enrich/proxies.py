"""The proxy that the environment names for a URL: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in capitals or not."""

import urllib.request
from ipaddress import ip_address

from yarl import URL

from mmgenre.errors import InputError


def proxy_for(url: URL) -> URL | None:
    """The proxy for a URL; None: connect directly, as always to this machine itself.

    Raises:
        InputError: the environment names a proxy that is not an http:// address.
    """
    if url.host is None or _is_this_machine(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    address = urllib.request.getproxies().get(url.scheme)
    if not address:
        return None
    try:
        proxy = URL(address if "://" in address else f"http://{address}")
        is_usable = proxy.scheme == "http" and bool(proxy.host)
    except ValueError:
        is_usable = False
    if not is_usable:
        # The address can contain a password.
        raise InputError(f"{url.scheme.upper()}_PROXY: not an address that can be used; expected http://HOST:PORT")
    return proxy


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
