"""Which URLs may be requested: every spelling of an allowed host, and nothing else."""

import asyncio
import pickle
import socket

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from aiohttp.test_utils import TestServer

from mmgenre.enrich.hosts import ForbiddenUrl, HostRules, PrivateAddress
from mmgenre.errors import InputError

TMDB = HostRules(("image.tmdb.org",))
POSTER = "/t/p/w342/abc.jpg"

PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
NOT_PUBLIC = [
    "127.0.0.1",
    "0.0.0.0",  # noqa: S104 - an address to refuse
    "10.1.2.3",
    "100.100.100.200",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.168.1.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:224.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2001:0:7f00:1::",
    "2001:0:808:808::f7f7:f7f7",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "fc00::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


class FixedResolver(AbstractResolver):
    """A resolver that returns the same addresses for every name."""

    def __init__(self, *addresses):
        self._addresses = addresses
        self.closed = False

    async def resolve(self, host, port=0, family=socket.AF_INET):
        return [
            {"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for address in self._addresses
        ]

    async def close(self):
        self.closed = True


def refusal(rules, url):
    """Why a URL must not be requested; None if it may be."""
    try:
        rules.check(url)
    except ForbiddenUrl as error:
        return str(error)
    return None


def in_url(address):
    """An IP address as it appears in a URL."""
    return f"[{address}]" if ":" in address else address


# URLs


@pytest.mark.parametrize(
    "url",
    [
        f"https://image.tmdb.org{POSTER}",
        f"https://image.tmdb.org:443{POSTER}",
        f"HTTPS://Image.TMDB.Org{POSTER}",
        f"https://image.tmdb.org.{POSTER}",
        "https://image.tmdb.org/MV5B@._V1_SX300.jpg?a=b@c",
        "https://image.tmdb.org",
        # Other spellings of the same name: the request goes to image.tmdb.org.
        f"https://image。tmdb。org{POSTER}",
        f"https://ⓘmage.tmdb.org{POSTER}",
    ],
)
def test_an_allowed_host_may_be_requested_over_https(url):
    assert TMDB.check(url).raw_host.removesuffix(".") == "image.tmdb.org"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://image.tmdb.org/a.jpg", "http instead of https"),
        ("ftp://image.tmdb.org/a.jpg", "ftp instead of https"),
        ("file:///etc/passwd", "not an absolute URL"),
        ("https://evil.org/a.jpg", "evil.org is not an allowed host"),
        ("https://image.tmdb.org.evil.org/a.jpg", "image.tmdb.org.evil.org is not an allowed host"),
        ("https://evil-image.tmdb.org/a.jpg", "evil-image.tmdb.org is not an allowed host"),
        ("https://tmdb.org/a.jpg", "tmdb.org is not an allowed host"),
        ("https://.image.tmdb.org/a.jpg", ".image.tmdb.org is not an allowed host"),
        ("https://image.tmdb.org../a.jpg", "image.tmdb.org. is not an allowed host"),
        ("https://evil.org?https://image.tmdb.org/", "evil.org is not an allowed host"),
        ("https://ímage.tmdb.org/a.jpg", "xn--mage-upa.tmdb.org is not an allowed host"),
        ("https://8.8.8.8/a.jpg", "8.8.8.8 is not an allowed host"),
        ("https://image.tmdb.org:80/a.jpg", "port 80 of image.tmdb.org is not allowed"),
        ("https://image.tmdb.org:0/a.jpg", "port 0 of image.tmdb.org is not allowed"),
        ("https://image.tmdb.org:99999/a.jpg", "not a URL"),
        ("https://image.tmdb.org:https/a.jpg", "not a URL"),
    ],
)
def test_other_hosts_ports_and_schemes_are_refused(url, reason):
    assert refusal(TMDB, url) == reason


@pytest.mark.parametrize("authority", ["image.tmdb.org@evil.org", "image.tmdb.org:443@evil.org", "evil@image.tmdb.org"])
@pytest.mark.parametrize("prefix", ["", "@", ":@"])
def test_user_names_are_refused(authority, prefix):
    assert refusal(TMDB, f"https://{prefix}{authority}/a.jpg") == "a user name in the URL"


@pytest.mark.parametrize("url", ["https://image.tmdb.org#@evil.org/", "https://image.tmdb.org/a.jpg#"])
def test_fragments_are_refused(url):
    assert refusal(TMDB, url) == "a fragment in the URL"


@pytest.mark.parametrize("character", [*"\\ \t\r\n\0\x7f\x85\xa0", "\u200b", "\u2028", "\u3000", "\ud800"])
@pytest.mark.parametrize(
    "url", ["{}https://image.tmdb.org/", "https:{}//image.tmdb.org/", "https://image.tmdb.org{}@evil.org/"]
)
def test_characters_on_which_parsers_disagree_are_refused(url, character):
    assert refusal(TMDB, url.format(character)) == "a space, control character or backslash in the URL"


@pytest.mark.parametrize("url", ["", "a.jpg", "//image.tmdb.org/", "https:image.tmdb.org", "https:/image.tmdb.org/"])
def test_only_absolute_urls_are_allowed(url):
    assert refusal(TMDB, url) == "not an absolute URL"


@pytest.mark.parametrize(
    "host",
    [
        *["", "%69mage.tmdb.org", "image.tmdb.org%00.evil.org", "image.tmdb.org<", f"{'a' * 300}.org"],
        *["0x7f.1", "0x7F000001", "2130706433", "127.1", "0177.0.0.1", "127.0.0.01", "1.2.3.4.5", "127.0.0.1.."],
        *["[::1%25eth0]", "[fe80::1%1]", "[v1.tmdb]", "[v1.a:b]"],
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_strings_that_only_look_like_a_host_are_refused(host, allow_private):
    rules = HostRules(("image.tmdb.org", "127.0.0.1", "[::1]"), allow_private)

    assert refusal(rules, f"https://{host}/a.jpg")


def test_unicode_names_are_compared_in_the_form_that_is_requested():
    rules = HostRules(("bücher.example", "xn--caf-dma.example"))

    assert refusal(rules, "https://BÜCHER.example/") is None
    assert refusal(rules, "https://xn--bcher-kva.example./") is None
    assert refusal(rules, "https://café.example/") is None
    assert (
        refusal(HostRules(("1.2.3.4",)), "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/")
        == "127.0.0.1 is not an allowed host"
    )


def test_a_host_listed_with_a_port_is_allowed_at_that_port_only():
    rules = HostRules(("image.tmdb.org:8443", "[2606:4700::1111]:80"))

    assert refusal(rules, "https://image.tmdb.org:8443/") is None
    assert refusal(rules, "https://[2606:4700:0:0::1111]:80/") is None
    assert refusal(rules, "https://image.tmdb.org/") == "port 443 of image.tmdb.org is not allowed"
    assert refusal(HostRules(rules.allowed_hosts, allow_private=True), "http://image.tmdb.org:8080/")


def test_an_empty_list_of_hosts_allows_nothing():
    assert refusal(HostRules(()), "https://image.tmdb.org/") == "image.tmdb.org is not an allowed host"


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_can_be_an_allowed_host(address):
    host = in_url(address)

    assert refusal(HostRules((host,)), f"https://{host}/") is None


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_private_address_is_refused_even_as_an_allowed_host(address):
    host = in_url(address)

    assert refusal(HostRules((host,)), f"https://{host}/").endswith("is not a public address")
    assert refusal(HostRules((host,)), f"https://{host}./") is not None


def test_allow_private_permits_http_and_any_port_of_a_local_server():
    rules = HostRules(("127.0.0.1", "[::1]:80"), allow_private=True)

    assert refusal(rules, "http://127.0.0.1:41234/a.jpg") is None
    assert refusal(rules, "http://[::1]/a.jpg") is None
    assert refusal(rules, "http://127.0.0.2/a.jpg") == "127.0.0.2 is not an allowed host"
    assert refusal(rules, "ftp://127.0.0.1/a.jpg") == "ftp instead of https"


@pytest.mark.parametrize(
    "entry",
    ["", "https://image.tmdb.org", "image.tmdb.org/", "*.tmdb.org", "me@tmdb.org", "a b", "127.1", "a:b", "::1"],
)
def test_an_invalid_allowed_host_is_an_input_error(entry):
    with pytest.raises(InputError, match="expected a host such as"):
        HostRules((entry,))


def test_rules_can_be_pickled():
    assert pickle.loads(pickle.dumps(TMDB)) == TMDB  # noqa: S301


# Name resolution


def resolve(rules, *addresses):
    """The addresses that remain of these after the rules' resolver."""

    async def resolve_all():
        return [
            address["host"]
            for address in await rules.resolver(FixedResolver(*addresses)).resolve("image.tmdb.org", 443)
        ]

    return asyncio.run(resolve_all())


def test_a_name_resolves_to_its_public_addresses_only():
    assert resolve(TMDB, *NOT_PUBLIC, *PUBLIC, "fe80::1%eth0") == PUBLIC


@pytest.mark.parametrize("addresses", [[address] for address in NOT_PUBLIC] + [NOT_PUBLIC, []])
def test_a_name_without_a_public_address_is_refused(addresses):
    with pytest.raises(PrivateAddress, match="resolves to no public address"):
        resolve(TMDB, *addresses)


def test_allow_private_resolves_names_to_private_addresses():
    assert resolve(HostRules((), allow_private=True), "127.0.0.1") == ["127.0.0.1"]


def test_closing_the_resolver_closes_the_inner_one():
    inner = FixedResolver()

    asyncio.run(TMDB.resolver(inner).close())

    assert inner.closed


def test_the_default_resolver_is_aiohttps_own():
    async def resolve_all():
        return await TMDB.resolver().resolve("localhost", 443)

    with pytest.raises(PrivateAddress):
        asyncio.run(resolve_all())


async def request_rebound_name(rules):
    """Request http://image.tmdb.org, which resolves to a local server; returns the requests received and the error."""
    requests, error = [], None

    async def answer(request):
        requests.append(request.url.host)
        return web.Response()

    application = web.Application()
    application.router.add_get(POSTER, answer)
    async with TestServer(application, host="127.0.0.1") as server:
        connector = aiohttp.TCPConnector(resolver=rules.resolver(FixedResolver("127.0.0.1")))
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                async with session.get(f"http://image.tmdb.org:{server.port}{POSTER}"):
                    pass
            except aiohttp.ClientError as raised:
                error = raised
    return requests, error


def test_a_name_that_resolves_to_a_private_address_is_not_requested():
    requests, error = asyncio.run(request_rebound_name(TMDB))

    assert requests == []
    assert isinstance(error, aiohttp.ClientConnectorDNSError)
    assert isinstance(error.os_error, PrivateAddress)
    assert "resolves to no public address" in str(error)


def test_allow_private_requests_the_same_name():
    requests, error = asyncio.run(request_rebound_name(HostRules(("image.tmdb.org",), allow_private=True)))

    assert (requests, error) == (["image.tmdb.org"], None)
