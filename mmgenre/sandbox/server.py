"""A local server that answers like TMDB, its image host and OMDb, good and bad days included."""

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
from mmgenre.sandbox import faults, image_faults
from mmgenre.sandbox import responses as answers
from mmgenre.sandbox.faults import FaultsConfig, Kind, Odds
from mmgenre.sandbox.image_faults import ImageFaultsConfig
from mmgenre.sandbox.posters import draw, narrow
from mmgenre.sandbox.responses import Movie
from mmgenre.sandbox.traffic import Quota, RateLimit, Traffic
from mmgenre.tables import storage

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_IMDB_ID = re.compile(r"tt\d{7,}", re.ASCII)
_DRAWN_WIDTH = 500


class TrafficConfig(Config):
    """How the server behaves."""

    port: int = Field(0, ge=0, le=65535, description="0 takes any free one")
    requests_per_second: float | None = Field(None, gt=0, description="for each key; more are answered with 429")
    retry_after: Literal["seconds", "date", "none"] = Field("seconds", description="how a 429 tells the pause")
    omdb_quota: int | None = Field(None, ge=0, description="OMDb requests of a key that are answered, then it is 401")
    revoke_after: int | None = Field(None, ge=0, description="TMDB requests of a key that are answered until it is bad")
    latency_s: float = Field(0, ge=0, description="seconds before each answer")
    faults: FaultsConfig = FaultsConfig()
    image_faults: ImageFaultsConfig = ImageFaultsConfig()


class ServerConfig(TrafficConfig):
    """What is served, and how."""

    data: str = Field(description="folder with movies.parquet and perhaps posters/<imdb id>.jpg")


@dataclass(frozen=True)
class _Manners:
    """How one of the services takes a key, and says no."""

    key: Callable[[web.Request], str]
    quota: Quota
    bad_key: dict[str, Any]
    used_up: dict[str, Any]
    too_many: dict[str, Any]


class _Service:
    """The routes, for one server."""

    def __init__(self, config: ServerConfig, token: str):
        movies = answers.load_movies(config.data)
        self.by_imdb_id = {movie.imdb_id: movie for movie in movies}
        self._by_tmdb_id = {str(movie.tmdb_id): movie for movie in movies}
        self._by_poster = {movie.poster: movie for movie in movies if movie.poster}
        self._has_poster_files = answers.has_poster_files(config.data)
        self._config = config
        self._token = token
        self.secret_url = ""
        self._limit = RateLimit(config.requests_per_second)
        self._traffic = Traffic()

    def application(self) -> web.Application:
        application, tmdb, omdb = web.Application(), _tmdb_manners(self._config), _omdb_manners(self._config)
        application.add_routes(
            [
                web.get("/3/find/{name}", self._api("find", tmdb, self._find)),
                web.get("/3/movie/{name}", self._api("movie", tmdb, self._movie)),
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

    def _api(self, endpoint: str, manners: _Manners, answer: Callable[[web.Request], web.Response]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            with self._traffic.request(endpoint):
                refusal = self._refuse(manners.key(request), manners)
                if refusal is not None:
                    return refusal
                name = request.match_info.get("name") or request.query.get("i", "")
                fault = self._draw_fault(self._config.faults, endpoint, name)
                await asyncio.sleep(self._config.latency_s)
                if fault is None:
                    return answer(request)
                self._traffic.faults[fault] += 1
                return await faults.commit(fault, request, answer(request), self._config.faults.hang_s)

        return handle

    def _refuse(self, key: str, manners: _Manners) -> web.Response | None:
        known, used_up = key == self._token, manners.quota.is_used_up(key)
        if not known or used_up:
            self._traffic.refused["key"] += 1
            return web.json_response(manners.used_up if known else manners.bad_key, status=401)
        wait_s = self._limit.wait_s(key)
        if wait_s > 0:
            self._traffic.refused["rate"] += 1
            return web.json_response(manners.too_many, status=429, headers=self._retry_after(wait_s))
        manners.quota.use(key)
        return None

    def _retry_after(self, wait_s: float) -> dict[str, str]:
        """The header that tells the pause, rounded up to what it can say."""
        match self._config.retry_after:
            case "seconds":
                return {"Retry-After": str(math.ceil(wait_s))}
            case "date":
                return {"Retry-After": formatdate(math.ceil(time.time() + wait_s), usegmt=True)}
            case "none":
                return {}

    def _draw_fault(self, odds: Odds[Kind], endpoint: str, name: str) -> Kind | None:
        """The fault of this attempt, which counts from here on."""
        return odds.draw(f"{endpoint} {name}", self._traffic.attempt(endpoint, name))

    def _find(self, request: web.Request) -> web.Response:
        if request.query.get("external_source") != "imdb_id":
            return web.json_response(answers.TMDB_BAD_SOURCE, status=422)
        return web.json_response(answers.found(self.by_imdb_id.get(request.match_info["name"])))

    def _movie(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        movie = self.by_imdb_id.get(name) or self._by_tmdb_id.get(name)
        if movie is None:
            return web.json_response(answers.TMDB_UNKNOWN, status=404)
        return web.json_response(answers.details(movie))

    def _configuration(self, request: web.Request) -> web.Response:
        return web.json_response(answers.configuration(str(request.url.origin())))

    def _omdb(self, request: web.Request) -> web.Response:
        imdb_id = request.query.get("i", "")
        if not _IMDB_ID.fullmatch(imdb_id):
            return web.json_response(answers.omdb_error("Incorrect IMDb ID."))
        movie = self.by_imdb_id.get(imdb_id)
        if movie is None:
            return web.json_response(answers.omdb_error("Error getting data."))
        return web.json_response(answers.omdb(movie, str(request.url.origin())))

    async def _image(self, request: web.Request) -> web.StreamResponse:
        with self._traffic.request("image"):
            if "Authorization" in request.headers or {"api_key", "apikey"} & request.query.keys():
                self._traffic.keys_at_image_host += 1
            name, size = request.match_info["name"], request.match_info["size"]
            movie = self._by_poster.get(name)
            if movie is None or size not in answers.POSTER_WIDTHS:
                return web.Response(status=404, text="File not found")
            # Where redirect_home leads is no further attempt: nothing goes wrong there.
            again = "again" in request.query
            fault = None if again else self._draw_fault(self._config.image_faults, "image", name)
            await asyncio.sleep(self._config.latency_s)
            image = await asyncio.to_thread(self._poster, movie, answers.POSTER_WIDTHS[size])
            poster = web.Response(body=image, content_type="image/jpeg")
            if fault is None:
                return poster
            self._traffic.image_faults[fault] += 1
            return await image_faults.commit(fault, request, poster, self.secret_url)

    async def _secret(self, _: web.Request) -> web.Response:
        """An image, so that a client that lets itself be sent here does not notice."""
        with self._traffic.request("secret"):
            return web.Response(body=image_faults.placeholder(), content_type="image/jpeg")

    def _poster(self, movie: Movie, width: int | None) -> bytes:
        """The poster as JPEG: a file made no wider than `width` pixels, or a drawing of that width."""
        if self._has_poster_files:
            file = storage.join(self._config.data, answers.POSTERS, f"{movie.imdb_id}.jpg")
            return narrow(storage.read_bytes(file), width)
        width = width or _DRAWN_WIDTH
        return draw(movie.imdb_id, movie.genres, (width, width * 3 // 2))

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._traffic.stats())


class Sandbox:
    """The server, in a thread of its own on 127.0.0.1, for as long as the `with` block lasts.

    Attributes:
        token: the key clients must send; random unless given.
        port: where it listens.
        base_url: such as http://127.0.0.1:1234; TMDB's routes are below /3, OMDb's is the root.
        image_url: where the posters are, 342 pixels wide.

    Raises:
        InputError: the data cannot be served, or the port not be had.
    """

    def __init__(self, config: ServerConfig, token: str | None = None):
        self.token = token or secrets.token_hex(16)
        self.base_url = self.image_url = ""
        self.port = 0
        self._config = config
        self._service = _Service(config, self.token)
        # Answers under way are not waited for: a hanging one would keep the server from stopping.
        self._runner = web.AppRunner(
            self._service.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.05
        )

    def __enter__(self) -> Self:
        """Start to listen; the addresses are known from here on."""
        started: Future[tuple[str, int]] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=[self._live(started)], name="sandbox", daemon=True)
        self._thread.start()
        host, port = started.result()
        self.port = port
        self.base_url = f"http://{host}:{port}"
        self.image_url = f"{self.base_url}/t/p/w342"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, without waiting for answers under way."""
        self._loop.call_soon_threadsafe(self._told_to_stop.set)
        self._thread.join()

    @property
    def num_movies(self) -> int:
        """How many movies the server knows."""
        return len(self._service.by_imdb_id)

    def stats(self) -> dict[str, Any]:
        """What `/_stats` answers."""
        return asyncio.run_coroutine_threadsafe(self._service.stats(), self._loop).result()

    async def _live(self, started: Future[tuple[str, int]]) -> None:
        self._loop, self._told_to_stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._start()
        except Exception as error:  # the thread that waits for the start is the one to hear of it
            started.set_exception(error)
        else:
            started.set_result(self._runner.addresses[0])
            await self._told_to_stop.wait()
        finally:
            await self._runner.cleanup()

    async def _start(self) -> None:
        await self._runner.setup()
        port = self._config.port
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024).start()
            # A second port of the same machine, where no poster leads and a redirect should not.
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise InputError(f"port {port}: {reason}; choose another, or port=0 for any free one") from None
        host, secret_port = self._runner.addresses[1]
        self._service.secret_url = f"http://{host}:{secret_port}/secret"


def _tmdb_key(request: web.Request) -> str:
    bearer = request.headers.get("Authorization", "")
    return bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else request.query.get("api_key", "")


def _omdb_key(request: web.Request) -> str:
    return request.query.get("apikey", "")


def _tmdb_manners(config: TrafficConfig) -> _Manners:
    """A key that was used up is refused as if it had never been one."""
    bad_key = answers.TMDB_BAD_KEY
    return _Manners(_tmdb_key, Quota(config.revoke_after), bad_key, bad_key, answers.TMDB_TOO_MANY)


def _omdb_manners(config: TrafficConfig) -> _Manners:
    bad_key, too_many = answers.omdb_error("Invalid API key!"), answers.omdb_error("Request limit reached!")
    return _Manners(_omdb_key, Quota(config.omdb_quota), bad_key, too_many, too_many)
