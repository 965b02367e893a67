"""A local server that behaves like TMDB, its image host and OMDb, with optional rate limits, quotas and faults."""

import asyncio
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Literal, Self

from aiohttp import web
from pydantic import Field

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.sandbox import faults, image_faults, responses
from mmgenre.sandbox.faults import FaultOdds, FaultsConfig, Kind
from mmgenre.sandbox.image_faults import ImageFaultsConfig
from mmgenre.sandbox.posters import draw, narrow
from mmgenre.sandbox.responses import ServedMovie
from mmgenre.sandbox.traffic import Quota, RateLimit, Traffic
from mmgenre.tables import storage

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_IMDB_ID = re.compile(r"tt\d{7,}", re.ASCII)
_DRAWN_WIDTH = 500


class TrafficConfig(Config):
    """Behaviour of the server."""

    port: int = Field(0, ge=0, le=65535, description="0: any free port")
    requests_per_second: float | None = Field(None, gt=0, description="limit per key, enforced with 429; null: none")
    retry_after: Literal["seconds", "date", "none"] = Field("seconds", description="Retry-After header of a 429")
    omdb_quota: int | None = Field(None, ge=0, description="OMDb requests per key before it gets a 401; null: no limit")
    revoke_after: int | None = Field(None, ge=0, description="TMDB requests per key before it is revoked; null: never")
    latency_s: float = Field(0, ge=0, description="delay of each response, in seconds")
    faults: FaultsConfig = FaultsConfig()
    image_faults: ImageFaultsConfig = ImageFaultsConfig()


class ServerConfig(TrafficConfig):
    """What the server serves, and its behaviour."""

    data: str = Field(description="folder with movies.parquet and optionally posters/<imdb id>.jpg")


@dataclass(frozen=True)
class _ApiStyle:
    """How a service expects the key, and its error responses."""

    key: Callable[[web.Request], str]
    quota: Quota
    bad_key: dict[str, Any]
    used_up: dict[str, Any]
    too_many: dict[str, Any]


class _Service:
    """The routes of one server."""

    def __init__(self, config: ServerConfig, token: str):
        movies = responses.load_movies(config.data)
        self.by_imdb_id = {movie.imdb_id: movie for movie in movies}
        self._by_poster = {movie.poster: movie for movie in movies if movie.poster}
        self._has_poster_files = responses.has_poster_files(config.data)
        self._config = config
        self._token = token
        self.secret_url = ""
        self._limit = RateLimit(config.requests_per_second)
        self._traffic = Traffic()

    def application(self) -> web.Application:
        application, tmdb, omdb = web.Application(), _tmdb_style(self._config), _omdb_style(self._config)
        application.add_routes(
            [
                web.get("/3/find/{name}", self._api("find", tmdb, self._find)),
                web.get("/3/configuration", self._api("configuration", tmdb, self._configuration)),
                web.get("/", self._api("omdb", omdb, self._omdb)),
                web.get("/t/p/{size}/{name}", self._image),
                web.get("/secret", self._secret),
                web.get("/_stats", self._stats),
            ]
        )
        return application

    async def stats(self) -> dict[str, Any]:
        return self._traffic.stats()

    def _api(self, endpoint: str, style: _ApiStyle, respond: Callable[[web.Request], web.Response]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            with self._traffic.request(endpoint):
                refusal = self._refuse(style.key(request), style)
                if refusal is not None:
                    return refusal
                name = request.match_info.get("name") or request.query.get("i", "")
                fault = self._draw_fault(self._config.faults, endpoint, name)
                await asyncio.sleep(self._config.latency_s)
                if fault is None:
                    return respond(request)
                self._traffic.faults[fault] += 1
                return await faults.respond(fault, request, respond(request), self._config.faults.hang_s)

        return handle

    def _refuse(self, key: str, style: _ApiStyle) -> web.Response | None:
        known, used_up = key == self._token, style.quota.is_used_up(key)
        if not known or used_up:
            self._traffic.refused["key"] += 1
            return web.json_response(style.used_up if known else style.bad_key, status=401)
        wait_s = self._limit.wait_s(key)
        if wait_s > 0:
            self._traffic.refused["rate"] += 1
            return web.json_response(style.too_many, status=429, headers=self._retry_after(wait_s))
        style.quota.use(key)
        return None

    def _retry_after(self, wait_s: float) -> dict[str, str]:
        """The Retry-After header, rounded up to its resolution."""
        match self._config.retry_after:
            case "seconds":
                return {"Retry-After": str(math.ceil(wait_s))}
            case "date":
                return {"Retry-After": formatdate(math.ceil(time.time() + wait_s), usegmt=True)}
            case "none":
                return {}

    def _draw_fault(self, odds: FaultOdds[Kind], endpoint: str, name: str) -> Kind | None:
        """Count an attempt and draw its fault."""
        return odds.draw(f"{endpoint} {name}", self._traffic.attempt(endpoint, name))

    def _find(self, request: web.Request) -> web.Response:
        if request.query.get("external_source") != "imdb_id":
            return web.json_response(responses.TMDB_BAD_SOURCE, status=422)
        return web.json_response(responses.find_response(self.by_imdb_id.get(request.match_info["name"])))

    def _configuration(self, request: web.Request) -> web.Response:
        return web.json_response(responses.configuration_response(str(request.url.origin())))

    def _omdb(self, request: web.Request) -> web.Response:
        imdb_id = request.query.get("i", "")
        if not _IMDB_ID.fullmatch(imdb_id):
            return web.json_response(responses.omdb_error("Incorrect IMDb ID."))
        movie = self.by_imdb_id.get(imdb_id)
        if movie is None:
            return web.json_response(responses.omdb_error("Error getting data."))
        return web.json_response(responses.omdb_response(movie, str(request.url.origin())))

    async def _image(self, request: web.Request) -> web.StreamResponse:
        with self._traffic.request("image"):
            if "Authorization" in request.headers or {"api_key", "apikey"} & request.query.keys():
                self._traffic.keys_at_image_host += 1
            name, size = request.match_info["name"], request.match_info["size"]
            movie = self._by_poster.get(name)
            if movie is None or size not in responses.POSTER_WIDTHS:
                return web.Response(status=404, text="File not found")
            # The target of redirect_home does not count as another attempt and has no faults.
            again = "again" in request.query
            fault = None if again else self._draw_fault(self._config.image_faults, "image", name)
            await asyncio.sleep(self._config.latency_s)
            image = await asyncio.to_thread(self._poster, movie, responses.POSTER_WIDTHS[size])
            poster = web.Response(body=image, content_type="image/jpeg")
            if fault is None:
                return poster
            self._traffic.image_faults[fault] += 1
            return await image_faults.respond(fault, request, poster, self.secret_url)

    async def _secret(self, _: web.Request) -> web.Response:
        """A valid image, so that a client that follows a redirect to it notices nothing."""
        with self._traffic.request("secret"):
            return web.Response(body=image_faults.placeholder(), content_type="image/jpeg")

    def _poster(self, movie: ServedMovie, width: int | None) -> bytes:
        """The poster as JPEG: a file, shrunk to `width` pixels if it is wider, or a drawing of that width."""
        if self._has_poster_files:
            file = storage.join(self._config.data, responses.POSTERS, f"{movie.imdb_id}.jpg")
            return narrow(storage.read_bytes(file), width)
        width = width or _DRAWN_WIDTH
        return draw(movie.imdb_id, movie.genres, (width, width * 3 // 2))

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._traffic.stats())


class Sandbox:
    """The server, running in a thread on 127.0.0.1 for the duration of the `with` block.

    Attributes:
        token: the key that clients must send; random unless given.
        port: the port it listens on.
        base_url: such as http://127.0.0.1:1234; TMDB's routes are below /3, OMDb's is the root.
        image_url: base URL of the posters, 342 pixels wide.

    Raises:
        InputError: the data cannot be read, or the port is not available.
    """

    def __init__(self, config: ServerConfig, token: str | None = None):
        self.token = token or secrets.token_hex(16)
        self.base_url = self.image_url = ""
        self.port = 0
        self._config = config
        self._service = _Service(config, self.token)
        # Requests in flight are cancelled: one that hangs would keep the server from stopping.
        self._runner = web.AppRunner(
            self._service.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.05
        )

    def __enter__(self) -> Self:
        """Start the server and set its port and URLs."""
        started: Future[tuple[str, int]] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=[self._run(started)], name="sandbox", daemon=True)
        self._thread.start()
        host, port = started.result()
        self.port = port
        self.base_url = f"http://{host}:{port}"
        self.image_url = f"{self.base_url}/t/p/w342"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and cancel requests in flight."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def num_movies(self) -> int:
        """Number of movies that the server knows."""
        return len(self._service.by_imdb_id)

    def stats(self) -> dict[str, Any]:
        """The response of `/_stats`."""
        return asyncio.run_coroutine_threadsafe(self._service.stats(), self._loop).result()

    async def _run(self, started: Future[tuple[str, int]]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._start()
        except Exception as error:  # raised in the thread that waits for the start
            started.set_exception(error)
        else:
            started.set_result(self._runner.addresses[0])
            await self._stop.wait()
        finally:
            await self._runner.cleanup()

    async def _start(self) -> None:
        await self._runner.setup()
        port = self._config.port
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024).start()
            # A second local port, which no poster URL and no followed redirect should lead to.
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise InputError(f"port {port}: {reason}; choose another one, or port=0 for any free port") from None
        host, secret_port = self._runner.addresses[1]
        self._service.secret_url = f"http://{host}:{secret_port}/secret"


def _tmdb_key(request: web.Request) -> str:
    bearer = request.headers.get("Authorization", "")
    return bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else request.query.get("api_key", "")


def _omdb_key(request: web.Request) -> str:
    return request.query.get("apikey", "")


def _tmdb_style(config: TrafficConfig) -> _ApiStyle:
    """TMDB refuses a revoked key like an unknown one."""
    bad_key = responses.TMDB_BAD_KEY
    return _ApiStyle(_tmdb_key, Quota(config.revoke_after), bad_key, bad_key, responses.TMDB_TOO_MANY)


def _omdb_style(config: TrafficConfig) -> _ApiStyle:
    bad_key, too_many = responses.omdb_error("Invalid API key!"), responses.omdb_error("Request limit reached!")
    return _ApiStyle(_omdb_key, Quota(config.omdb_quota), bad_key, too_many, too_many)
