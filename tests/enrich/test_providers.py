"""The providers' requests, and how they parse responses, however odd; without network."""

import json

import pytest

from mmgenre.enrich.http import RetryableError, ServiceUnavailable
from mmgenre.enrich.providers import OmdbConfig, TmdbConfig
from mmgenre.enrich.providers.omdb import language_code
from mmgenre.errors import InputError

TOKEN = "a-token-nobody-may-read"  # noqa: S105


def tmdb():
    return TmdbConfig(image_url="http://images").build({"TMDB_TOKEN": TOKEN})


def omdb():
    return OmdbConfig().build({"OMDB_API_KEY": TOKEN})


def read(source, answer, status=200):
    return source.read(status, json.dumps(answer).encode())


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

    assert tmdb().read(200, answer)["plot"] == "half ? of a pair, été"


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


@pytest.mark.parametrize("content", [b"", b"<html>", b"[" * 1_000_000, b"\xff\xfe", b'{"a": ' + b"9" * 5000 + b"}"])
@pytest.mark.parametrize("source", [tmdb(), omdb()], ids=lambda source: source.kind)
def test_a_response_that_is_not_json_is_retried(source, content):
    with pytest.raises(RetryableError, match="the response is not JSON"):
        source.read(200, content)


@pytest.mark.parametrize("source", [tmdb(), omdb()], ids=lambda source: source.kind)
def test_a_server_error_is_retried(source):
    for status in (302, 500, 503):
        with pytest.raises(RetryableError, match=f"HTTP {status}"):
            source.read(status, b"{}")


def test_a_refused_key_stops_the_job():
    with pytest.raises(ServiceUnavailable, match=r"TMDB refused the key \(HTTP 401\); check TMDB_TOKEN"):
        read(tmdb(), {}, status=401)
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
