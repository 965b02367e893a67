"""Titles asked of web services: one ENRICHED row each, whatever goes wrong on the way."""

from datetime import UTC, datetime
from typing import Any

import aiohttp

from mmgenre.enrich.http import (
    Breaker,
    HttpConfig,
    Pace,
    Request,
    Stopped,
    TooLong,
    TryAgain,
    Unhurried,
    Web,
    body,
    patiently,
)
from mmgenre.enrich.providers.source import Fields, Source
from mmgenre.enrich.rate_limit import ClusterPace, rate_limiter
from mmgenre.errors import InputError
from mmgenre.tables.schema import EnrichStatus

# What a title may lack, for a second service to fill in.
_FILLED = ("plot", "language", "poster_url")
_MAX_ANSWER = 2_000_000


async def check(source: Source, http: HttpConfig) -> None:
    """Find out with one request whether a service answers and takes the key.

    Raises:
        InputError: it does not.
    """
    client = Client(source, Unhurried(), http)
    try:
        await client.ask(source.probe(), source.check)
    except Stopped as stop:
        raise InputError(str(stop)) from None
    except TryAgain as failure:
        where = source.probe().url
        raise InputError(f"{where}: no answer ({failure}); check base_url and the network") from None
    finally:
        await client.close()


class Titles:
    """Fetches ENRICHED rows: asks one service, and where it lacks something the next.

    Args:
        sources: the services, in order.
        requests_per_second: at each of them, of all processes together.
        http: patience with them.
    """

    def __init__(self, sources: list[Source], requests_per_second: float, http: HttpConfig):
        def pace(source: Source) -> ClusterPace:
            return ClusterPace(rate_limiter(), source.base_url.split("/")[2], requests_per_second)

        self._clients = [Client(source, pace(source), http) for source in sources]

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""
        return sum(client.num_requests for client in self._clients)

    async def fetch(self, movie: dict[str, Any]) -> dict[str, Any]:
        """The row of a movie with an `imdb_id`.

        Raises:
            Stopped: a service does not answer for now, whatever one asks.
        """
        first, *others = self._clients
        row = await first.fetch(movie["imdb_id"])
        for client in others:
            if row["status"] != EnrichStatus.UNREACHABLE and any(row.get(name) is None for name in _FILLED):
                row = fill(row, await client.fetch(movie["imdb_id"]))
        return movie | row | {"fetched_at": datetime.now(UTC).replace(microsecond=0)}


def fill(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A row whose gaps are filled with what another service says of the same title.

    When the other service could not be reached the row is `unreachable`, though it keeps what it has: the next run
    asks again.
    """
    if other["status"] == EnrichStatus.UNREACHABLE:
        return row | {"status": EnrichStatus.UNREACHABLE, "detail": f"{other['provider']}: {other['detail']}"}
    filled = [name for name in _FILLED if row.get(name) is None and other.get(name) is not None]
    if row["status"] == EnrichStatus.NOT_FOUND:
        return other if other["status"] == EnrichStatus.OK else row
    if not filled:
        return row
    return (
        row
        | {name: other[name] for name in filled}
        | {
            "provider": f"{row['provider']}+{other['provider']}",
            "detail": f"{', '.join(filled)} from {other['provider']}",
        }
    )


class Client:
    """Asks one service for titles.

    Args:
        source: what to ask, and what the answer says.
        pace: when to ask.
        http: how often and how long.
    """

    def __init__(self, source: Source, pace: Pace, http: HttpConfig):
        self._source = source
        self._http = http
        self._web = Web(pace, http)
        self._breaker = Breaker(source.base_url)

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""
        return self._web.num_requests

    async def fetch(self, imdb_id: str) -> dict[str, Any]:
        """What the service knows of a title: provider, status, its columns, a detail where something is wrong.

        Raises:
            Stopped: the service refuses the key, has given what it gives in a day, or is down.
        """
        about = {"provider": self._source.kind}
        try:
            found = await self.ask(self._source.request(imdb_id), self._source.read)
        except TryAgain as failure:
            self._breaker.failed(str(failure))
            return about | {"status": EnrichStatus.UNREACHABLE, "detail": str(failure)}
        self._breaker.succeeded()
        if found is None:
            return about | {"status": EnrichStatus.NOT_FOUND}
        return about | {"status": EnrichStatus.OK} | found

    async def ask(self, request: Request, read: Any) -> Fields:
        """The answer to a request as `read(status, content)` understands it; raises what that raises."""

        async def understood(response: aiohttp.ClientResponse) -> Fields:
            try:
                return read(response.status, await body(response, _MAX_ANSWER))
            except TooLong:
                raise TryAgain("the answer is too long") from None

        return await patiently(self._http, self._web.get, request, understood)

    async def close(self) -> None:
        """End the connections."""
        await self._web.close()
