"""The providers' requests, and how they parse responses, however odd; without network."""

import json

import pytest

from mmgenre.enrich.http import RetryableError, ServiceUnavailable
from mmgenre.enrich.providers import OmdbConfig, TmdbConfig
from mmgenre.enrich.providers.omdb import language_code
from mmgenre.enrich.providers.source import Title, UnreadableResponse
from mmgenre.errors import InputError

TOKEN = "a-token-nobody-may-read"  # noqa: S105


def tmdb():
    return TmdbConfig(image_url="http://images").build({"TMDB_TOKEN": TOKEN})


def omdb():
    return OmdbConfig().build({"OMDB_API_KEY": TOKEN})


MOVIE = Title("tt0111161", "The Shawshank Redemption", "movie", 1994)


def read(source, answer, status=200, title=MOVIE):
    return source.read(title, status, json.dumps(answer).encode())


# Keys


@pytest.mark.parametrize(
    ("variables", "header", "parameter"),
    [
        ({"TMDB_TOKEN": "v4"}, "Bearer v4", None),
        ({"TMDB_API_KEY": "v3"}, None, "v3"),
        ({"TMDB_TOKEN": "v4", "TMDB_API_KEY": "v3"}, "Bearer v4", None),
        ({"TMDB_TOKEN": "  ", "TMDB_API_KEY": " v3\n"}, None, "v3"),
    ],
)
def test_tmdb_accepts_either_kind_of_key(variables, header, parameter):
    request = TmdbConfig().build(variables).request("tt0111161")

    assert request.url == "https://api.themoviedb.org/3/find/tt0111161"
    assert request.headers.get("Authorization") == header
    assert request.params.get("api_key") == parameter


def test_omdb_is_asked_for_the_full_plot():
    request = omdb().request("tt0111161")

    assert request.url == "https://www.omdbapi.com/"
    assert request.params == {"i": "tt0111161", "plot": "full", "apikey": TOKEN}


@pytest.mark.parametrize(
    ("config", "names"), [(TmdbConfig(), "TMDB_TOKEN .* or TMDB_API_KEY"), (OmdbConfig(), "OMDB_API_KEY")]
)
def test_a_missing_key_is_an_input_error_that_names_the_variables(config, names):
    with pytest.raises(InputError, match=f"set {names}"):
        config.build({})


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "clé"])
def test_a_malformed_key_is_an_input_error_that_does_not_print_it(key):
    with pytest.raises(InputError) as error:
        OmdbConfig().build({"OMDB_API_KEY": key})

    assert str(error.value).startswith("OMDB_API_KEY: contains characters")
    assert key not in str(error.value)


def test_printing_a_source_does_not_show_its_key():
    for source in (tmdb(), omdb()):
        assert TOKEN not in f"{source} {source!r} {vars(source)}"


# Responses


def tmdb_answer(**fields):
    return {"movie_results": [{"id": 278, "overview": " A plot. ", "original_language": "en"} | fields]}


def omdb_answer(**fields):
    known = {"imdbID": "tt0111161", "Plot": "A plot.", "Language": "English, French", "Poster": "https://a.org/b.jpg"}
    return known | {"Response": "True"} | fields


def test_a_tmdb_response_is_parsed():
    assert read(tmdb(), tmdb_answer(poster_path="/a_B-1.jpg")) == {
        "provider_id": "278",
        "plot": "A plot.",
        "language": "en",
        "poster_url": "http://images/a_B-1.jpg",
    }
    assert read(tmdb(), {"movie_results": []}) is None
    assert read(tmdb(), {"status_code": 34}, status=404) is None


def test_an_omdb_response_is_parsed():
    assert read(omdb(), omdb_answer()) == {
        "provider_id": "tt0111161",
        "plot": "A plot.",
        "language": "en",
        "poster_url": "https://a.org/b.jpg",
    }
    empty = read(omdb(), omdb_answer(Plot="N/A", Language="N/A", Poster="N/A"))
    assert empty == {"provider_id": "tt0111161", "plot": None, "language": None, "poster_url": None}
    for error in ("Incorrect IMDb ID.", "Error getting data.", "Movie not found!"):
        assert read(omdb(), {"Response": "False", "Error": error}) is None


@pytest.mark.parametrize("path", [None, "", 7, "//elsewhere.org/a.jpg", "/../secret.jpg", "/a.svg", "/a.jpg?x=1"])
def test_an_invalid_poster_path_gives_no_url(path):
    assert read(tmdb(), tmdb_answer(poster_path=path))["poster_url"] is None


@pytest.mark.parametrize("poster", ["file:///etc/passwd", "javascript:1", "https://a b", "https://" + "a" * 3000])
def test_an_invalid_poster_url_gives_no_url(poster):
    assert read(omdb(), omdb_answer(Poster=poster))["poster_url"] is None


@pytest.mark.parametrize("overview", [None, "", "  "])
def test_an_empty_plot_is_none(overview):
    assert read(tmdb(), tmdb_answer(overview=overview))["plot"] is None


def test_characters_that_utf_8_cannot_encode_are_replaced():
    answer = rb'{"movie_results": [{"id": 1, "overview": "half \ud800 of a pair\u0000, \u00e9t\u00e9"}]}'

    assert tmdb().read(MOVIE, 200, answer)["plot"] == "half ? of a pair, été"


def test_an_overlong_plot_is_truncated():
    assert len(read(tmdb(), tmdb_answer(overview="word " * 100_000))["plot"]) < 100_001


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "busy",
        {},
        {"movie_results": None},
        {"movie_results": ["a"]},
        {"movie_results": [{}]},
        tmdb_answer(id=None),
        tmdb_answer(overview=7),
        tmdb_answer(original_language=["en"]),
    ],
)
def test_an_unexpected_tmdb_response_is_an_error_and_not_a_movie_without_plot(answer):
    with pytest.raises(RetryableError, match="the response"):
        read(tmdb(), answer)


@pytest.mark.parametrize("answer", [[], {}, omdb_answer(imdbID=None), omdb_answer(Plot=7), {"Response": "False"}])
def test_an_unexpected_omdb_response_is_retried(answer):
    with pytest.raises(RetryableError):
        read(omdb(), answer)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[" * 1_000_000, b"\xff\xfe", b'{"a": '])
@pytest.mark.parametrize("source", [tmdb(), omdb()], ids=lambda source: source.kind)
def test_a_response_that_is_not_json_is_retried(source, content):
    with pytest.raises(RetryableError, match="the response is not JSON"):
        source.read(MOVIE, 200, content)


@pytest.mark.parametrize("source", [tmdb(), omdb()], ids=lambda source: source.kind)
def test_a_server_error_is_retried(source):
    for status in (302, 500, 503):
        with pytest.raises(RetryableError, match=f"HTTP {status}"):
            source.read(MOVIE, status, b"{}")


# Raw control characters are not JSON, but OMDb sends them.


def test_raw_control_characters_in_a_text_are_read():
    answer = b'{"Response": "True", "imdbID": "tt0111161", "Plot": "One\tplot.\nTwo lines."}'

    assert omdb().read(MOVIE, 200, answer)["plot"] == "One\tplot.\nTwo lines."


@pytest.mark.parametrize("plot", [rb"C:\movies", rb'She says "no".'])
def test_broken_json_of_omdb_is_not_asked_for_again_as_each_request_counts(plot):
    with pytest.raises(UnreadableResponse, match="the response is broken JSON"):
        omdb().read(MOVIE, 200, b'{"Response": "True", "imdbID": "tt0111161", "Plot": "' + plot + b'"}')


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("source", [tmdb(), omdb()], ids=lambda source: source.kind)
def test_a_cdns_page_is_not_a_refused_key(source, status):
    with pytest.raises(RetryableError, match=rf"HTTP {status}: the response is not JSON|the response is not JSON"):
        source.read(MOVIE, status, b"<html><h1>403 ERROR</h1>The request could not be satisfied.</html>")
    with pytest.raises(RetryableError, match=f"HTTP {status}"):
        source.read(MOVIE, status, b"{}")


def test_an_error_with_status_200_is_an_error():
    with pytest.raises(RetryableError, match="HTTP 200: Internal error: Something went wrong"):
        read(tmdb(), {"success": False, "status_code": 11, "status_message": "Internal error: Something went wrong"})
    with pytest.raises(ServiceUnavailable, match=r"TMDB refused the key \(HTTP 200, code 7: Invalid API key"):
        read(tmdb(), {"success": False, "status_code": 7, "status_message": "Invalid API key."})
    assert read(tmdb(), {"success": False, "status_code": 34, "status_message": "Not found."}) is None


def test_a_refused_key_stops_the_job():
    for code in (7, 10, 14):
        with pytest.raises(ServiceUnavailable, match=r"TMDB refused the key \(HTTP 401, code .*\); check TMDB_TOKEN"):
            read(tmdb(), {"success": False, "status_code": code, "status_message": "No."}, status=401)
    for status in (200, 401):
        with pytest.raises(ServiceUnavailable, match=r"OMDb refused the key .*; check OMDB_API_KEY"):
            read(omdb(), {"Response": "False", "Error": "Invalid API key!"}, status=status)


@pytest.mark.parametrize("status", [200, 401])
def test_a_used_up_quota_stops_the_job_and_says_when_to_resume(status):
    with pytest.raises(ServiceUnavailable, match=r"daily quota is used up; resume after 20\d\d-\d\d-\d\d 00:00 UTC"):
        read(omdb(), {"Response": "False", "Error": "Request limit reached!"}, status=status)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ("English", "en"),
        ("French, English", "fr"),
        ("Mandarin", "zh"),
        ("Persian", "fa"),
        ("Greek", "el"),
        ("Norwegian", "no"),
        ("None", None),
        ("American Sign ", None),
        ("", None),
        (None, None),
    ],
)
def test_language_names_become_iso_codes(names, code):
    assert language_code(names) == code


# Several results, and TV


def found(number, title, year, plot="A plot.", **more):
    return {"id": number, "title": title, "release_date": f"{year}-01-01", "overview": plot} | more


@pytest.mark.parametrize(
    ("movies", "expected_id"),
    [
        # A plot counts before the name, the name before the year.
        ([found(1, MOVIE.title, 1994, plot=""), found(2, "Another", 1994)], "2"),
        ([found(1, "Another", 1994), found(2, MOVIE.title, 1994)], "2"),
        ([found(1, MOVIE.title, 2004), found(2, MOVIE.title, 1994)], "2"),
        ([found(1, MOVIE.title, ""), found(2, MOVIE.title, 1994)], "2"),
        ([found(1, "Die Verurteilten", 1994, original_title=MOVIE.title), found(2, "Verurteilt", 1994)], "1"),
    ],
)
def test_of_several_movies_the_nearest_one_with_a_plot_is_taken(movies, expected_id):
    assert read(tmdb(), {"movie_results": movies})["provider_id"] == expected_id


def test_a_series_is_read_from_tmdbs_series_and_says_so():
    answer = {
        "movie_results": [],
        "tv_results": [{"id": 5, "name": "A Series", "overview": "A long story.", "original_language": "en"}],
    }

    row = read(tmdb(), answer, title=Title("tt1", "A Series", "tvSeries", 2010))

    assert (row["plot"], row["provider_id"], row["detail"]) == ("A long story.", "5", "TMDB's TV series 5")
    assert read(tmdb(), answer) is None


# Keys and addresses as people paste them


V3, V4 = "0123456789abcdef" * 2, "eyJhbGciOi.x.y"


@pytest.mark.parametrize("name", ["TMDB_TOKEN", "TMDB_API_KEY"])
@pytest.mark.parametrize("quoted", ["{}", '"{}"', "'{}'", " {}\n"])
def test_a_key_is_known_by_its_form_and_quotes_around_it_do_not_matter(name, quoted):
    token = TmdbConfig().build({name: quoted.format(V4)}).probe()
    key = TmdbConfig().build({name: quoted.format(V3)}).probe()

    assert (token.headers["Authorization"], token.params) == (f"Bearer {V4}", {})
    assert ("Authorization" in key.headers, key.params) == (False, {"api_key": V3})


@pytest.mark.parametrize(
    "url", ["https://api.themoviedb.org/3", "https://api.themoviedb.org/3/", " https://api.themoviedb.org/"]
)
def test_a_base_url_with_a_version_or_a_slash_is_the_base_url(url):
    assert TmdbConfig(base_url=url).base_url == "https://api.themoviedb.org"
    assert OmdbConfig(base_url="https://www.omdbapi.com/").base_url == "https://www.omdbapi.com"
