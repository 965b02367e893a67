"""A local server that answers like TMDB, its image host and OMDb, good and bad days included."""

import asyncio
import io
import math
import os
import re
import secrets
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from PIL import Image
from pydantic import Field

from mmgenre import storage
from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.sandbox import answers, faults
from mmgenre.sandbox.answers import Movie
from mmgenre.sandbox.faults import FaultsConfig
from mmgenre.sandbox.posters import draw
from mmgenre.sandbox.traffic import RateLimit, Traffic

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_IMDB_ID = re.compile(r"tt\d{7,}", re.ASCII)
_DRAWN_WIDTH = 500


class TrafficConfig(Config):
    """How the server behaves."""

    port: int = Field(0, ge=0, le=65535, description="0 takes any free one")
    requests_per_second: float | None = Field(None, gt=0, description="for each key; more are answered with 429")
    latency_s: float = Field(0, ge=0, description="seconds before each answer")
    faults: FaultsConfig = FaultsConfig()


class ServerConfig(TrafficConfig):
    """What is served, and how."""

    data: str = Field(description="folder with movies.parquet and perhaps posters/<imdb id>.jpg")


@dataclass(frozen=True)
class _Manners:
    """How one of the services takes a key, and says no."""

    key: Callable[[web.Request], str]
    bad_key: dict[str, Any]
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
        self._limit = RateLimit(config.requests_per_second)
        self._traffic = Traffic()

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.get("/3/find/{name}", self._api("find", _TMDB, self._find)),
                web.get("/3/movie/{name}", self._api("movie", _TMDB, self._movie)),
                web.get("/3/configuration", self._api("configuration", _TMDB, self._configuration)),
                web.get("/", self._api("omdb", _OMDB, self._omdb)),
                web.get("/t/p/{size}/{name}", self._image),
                web.get("/_stats", self._stats),
            ]
        )
        return application

    async def stats(self) -> dict[str, Any]:
        return self._traffic.stats()

    def _api(self, endpoint: str, manners: _Manners, answer: Callable[[web.Request], web.Response]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self._traffic.arrive(endpoint)
            refusal = self._refuse(manners.key(request), manners)
            if refusal is not None:
                return refusal
            return await self._deliver(endpoint, request, answer(request))

        return handle

    def _refuse(self, key: str, manners: _Manners) -> web.Response | None:
        if key != self._token:
            self._traffic.refused["key"] += 1
            return web.json_response(manners.bad_key, status=401)
        wait_s = self._limit.wait_s(key)
        if wait_s > 0:
            self._traffic.refused["rate"] += 1
            headers = {"Retry-After": str(math.ceil(wait_s))}
            return web.json_response(manners.too_many, status=429, headers=headers)
        return None

    async def _deliver(self, endpoint: str, request: web.Request, answer: web.Response) -> web.StreamResponse:
        """The answer, late or spoiled if so configured."""
        name = request.match_info.get("name") or request.query.get("i", "")
        attempt = self._traffic.attempt(endpoint, name)
        if self._config.latency_s:
            await asyncio.sleep(self._config.latency_s)
        fault = self._config.faults.draw(f"{endpoint} {name}", attempt)
        if fault is None:
            return answer
        self._traffic.faults[fault] += 1
        return await faults.commit(fault, request, answer, self._config.faults.hang_s)

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
        self._traffic.arrive("image")
        if "Authorization" in request.headers or {"api_key", "apikey"} & request.query.keys():
            self._traffic.keys_at_image_host += 1
        movie = self._by_poster.get(request.match_info["name"])
        size = request.match_info["size"]
        if movie is None or size not in answers.POSTER_WIDTHS:
            return web.Response(status=404, text="File not found")
        image = await asyncio.to_thread(self._poster, movie, answers.POSTER_WIDTHS[size])
        return await self._deliver("image", request, web.Response(body=image, content_type="image/jpeg"))

    def _poster(self, movie: Movie, width: int | None) -> bytes:
        """The poster as JPEG: a file made no wider than `width` pixels, or a drawing of that width."""
        if self._has_poster_files:
            file = storage.join(self._config.data, answers.POSTERS, f"{movie.imdb_id}.jpg")
            return _narrow(storage.read_bytes(file), width)
        width = width or _DRAWN_WIDTH
        return draw(movie.imdb_id, movie.genres, (width, width * 3 // 2))

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._traffic.stats())


class Sandbox:
    """The server, in a thread of its own on 127.0.0.1, for as long as the `with` block lasts.

    Attributes:
        token: the key clients must send; random unless given.
        base_url: such as http://127.0.0.1:1234; TMDB's routes are below /3, OMDb's is the root.
        image_url: where the posters are, 342 pixels wide.

    Raises:
        InputError: the data cannot be served, or the port not be had.
    """

    def __init__(self, config: ServerConfig, token: str | None = None):
        self.token = token or secrets.token_hex(16)
        self.base_url = self.image_url = ""
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
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise InputError(f"port {port}: {reason}; choose another, or port=0 for any free one") from None


def _narrow(image: bytes, width: int | None) -> bytes:
    """The image made no wider than `width` pixels; bytes that are no image stay as they are."""
    content = io.BytesIO()
    try:
        with Image.open(io.BytesIO(image)) as poster:
            if width is None or poster.width <= width:
                return image
            narrow = poster.convert("RGB").resize((width, max(1, round(poster.height * width / poster.width))))
    except OSError:
        return image
    narrow.save(content, "JPEG", quality=90)
    return content.getvalue()


def _tmdb_key(request: web.Request) -> str:
    bearer = request.headers.get("Authorization", "")
    return bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else request.query.get("api_key", "")


def _omdb_key(request: web.Request) -> str:
    return request.query.get("apikey", "")


_TMDB = _Manners(_tmdb_key, answers.TMDB_BAD_KEY, answers.TMDB_TOO_MANY)
_OMDB = _Manners(_omdb_key, answers.omdb_error("Invalid API key!"), answers.omdb_error("Request limit reached!"))
