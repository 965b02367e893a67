"""A proxy that the environment names is used, looked through, or refused in one line."""

import asyncio
import socket
import socketserver
import threading

import pytest
from yarl import URL

from mmgenre.enrich.body import read_body
from mmgenre.enrich.hosts import HostRules
from mmgenre.enrich.http import HttpClient, HttpConfig, Request, Unpaced
from mmgenre.enrich.proxies import proxy_for
from mmgenre.errors import InputError
from mmgenre.operations.node_probe import Probe, look

VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy():
    """A proxy on loopback that answers for any host; its URL, and the first lines of the requests that it got."""
    lines = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            lines.append(self.rfile.readline().decode().strip())
            headers = []
            while (line := self.rfile.readline().strip()) != b"":
                headers.append(line.decode())
            lines.extend(header for header in headers if header.lower().startswith("proxy-authorization"))
            if lines[0].startswith("CONNECT refused"):
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            else:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", lines
        server.shutdown()
        thread.join()


def get(url, resolver=None):
    async def run():
        client = HttpClient(Unpaced(), HttpConfig(attempts=1), resolver() if resolver else None)
        try:
            return await client.get(Request(url), lambda response: read_body(response, 1000))
        finally:
            await client.close()

    return asyncio.run(run())


def test_requests_go_through_the_proxy_also_those_that_check_addresses(proxy, monkeypatch):
    address, lines = proxy
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{address}")

    # No name server knows the host: the proxy resolves it. The proxy's own address is private.
    assert get("http://movies.invalid/poster.jpg", HostRules(("movies.invalid",)).resolver) == b"hello"
    assert lines == ["GET http://movies.invalid/poster.jpg HTTP/1.1", "Proxy-Authorization: Basic bWU6c2VjcmV0"]


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://api.themoviedb.org/3", "http://proxy:3128"),
        ({"https_proxy": "proxy:3128"}, "https://api.themoviedb.org/3", "http://proxy:3128"),
        ({"HTTP_PROXY": "http://proxy:3128"}, "https://api.themoviedb.org/3", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".themoviedb.org"}, "https://api.themoviedb.org/3", None),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://127.0.0.1:8000/", None),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://localhost:8000/", None),
        ({"HTTPS_PROXY": ""}, "https://api.themoviedb.org/3", None),
    ],
)
def test_the_environment_names_the_proxy(variables, url, expected, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert proxy_for(URL(url)) == (None if expected is None else URL(expected))


@pytest.mark.parametrize("address", ["socks5://me:secret@proxy:1080", "https://proxy:443", "http://"])
def test_a_proxy_of_another_kind_is_refused_in_one_line_without_its_password(address, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", address)

    with pytest.raises(InputError) as error:
        proxy_for(URL("https://api.themoviedb.org/3"))

    assert str(error.value) == "HTTPS_PROXY: not an address that can be used; expected http://HOST:PORT"


def test_doctor_looks_through_the_proxy(proxy, monkeypatch):
    address, lines = proxy
    monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")

    def error_of(host):
        lines.clear()
        return look(Probe("marker", hosts=((host, 443),))).host_errors.get((host, 443))

    assert error_of("movies.invalid") is None
    assert lines == ["CONNECT movies.invalid:443 HTTP/1.1"]
    assert error_of("refused.invalid") == f"proxy {address}: HTTP/1.1 403 Forbidden"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert "Connection refused" in error_of("movies.invalid")
