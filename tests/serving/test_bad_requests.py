"""Bad requests: each gets a 4xx status and a one-line error."""

import itertools
import json
import struct
import zlib

import numpy as np
import pytest
from services import form, in_base64, picture, predict_half, save_fusion, service_in_process

from mmgenre.serving.request_models import MOVIE_FIELDS

JSON = "application/json"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with service_in_process(save_fusion(tmp_path_factory.mktemp("serving") / "fusion"), predict_half) as client:
        yield client


def bomb():
    """A small PNG file that declares 40,000 x 40,000 pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def poster(content):
    return json.dumps({"poster": in_base64(content)})


FORM, FORM_TYPE = form({"plot": "A plot.", "poster": picture()})
TABLE = "id,plot\n" + "1,x\n" * 1001
BAD_REQUESTS = {
    "no body": ("/predict", b"", JSON, 400, "not JSON"),
    "not JSON": ("/predict", b"plot=x", JSON, 400, "not JSON"),
    "truncated JSON": ("/predict", b'{"plot": "x"', JSON, 400, "EOF"),
    "NUL bytes": ("/predict", b"\0" * 100, JSON, 400, "not JSON"),
    "UTF-16": ("/predict", '{"plot": "x"}'.encode("utf-16"), JSON, 400, "not JSON"),
    "invalid UTF-8": ("/predict", b'{"plot": "\xff"}', JSON, 400, "not JSON"),
    "a lone surrogate": ("/predict", b'{"plot": "\\ud800"}', JSON, 400, "not JSON"),
    "NaN": ("/predict", b'{"plot": NaN}', JSON, 400, "not JSON"),
    "a number of a million digits": ("/predict", b'{"plot": ' + b"9" * 1_000_000 + b"}", JSON, 400, "not JSON"),
    "deeply nested": ("/predict", b'{"plot":' + b"[" * 1_000_000, JSON, 400, "recursion"),
    "a list": ("/predict", b"[]", JSON, 422, "an empty list; expected an object"),
    "text": ("/predict", b'"plot"', JSON, 422, "expected an object"),
    "null": ("/predict", b"null", JSON, 422, "null"),
    "a number for a plot": ("/predict", b'{"plot": 7}', JSON, 422, "plot: a number; expected text"),
    "a list for a plot": ("/predict", b'{"plot": ["x"]}', JSON, 422, "plot: a list; expected text"),
    "a boolean for a title": ("/predict", b'{"title": true}', JSON, 422, "title: true or false"),
    "an object for a poster": ("/predict", b'{"poster": {}}', JSON, 422, "poster: an object"),
    "an unknown field": ("/predict", b'{"plto": "x"}', JSON, 422, "'plto': unknown field; expected id, title"),
    "half a million unknown fields": (
        "/predict",
        json.dumps({str(n): 1 for n in range(500_000)}).encode(),
        JSON,
        422,
        "unknown field",
    ),
    "NUL in a plot": ("/predict", b'{"plot": "a\\u0000b"}', JSON, 422, "plot: contains a NUL"),
    "a long plot": ("/predict", json.dumps({"plot": "x" * 20_001}), JSON, 413, "at most 20,000"),
    "ten megabytes": ("/predict", json.dumps({"plot": "x" * 10_000_000}), JSON, 413, "at most 8,000,000"),
    "an empty batch": ("/predict", b'{"movies": []}', JSON, 422, "movies: an empty list"),
    "an object for a batch": ("/predict", b'{"movies": {}}', JSON, 422, "movies: an object"),
    "a batch of numbers": ("/predict", b'{"movies": [{}, 1]}', JSON, 422, "movies.1: a number"),
    "a batch and a plot": ("/predict", b'{"movies": [{}], "plot": "x"}', JSON, 422, "not allowed next to movies"),
    "a large batch": ("/predict", json.dumps({"movies": [{}] * 65}), JSON, 413, "movies: 65; expected at most 64"),
    "a batch with a wrong movie": ("/predict", b'{"movies": [{"plot": 1}]}', JSON, 422, "movies.0.plot: a number"),
    "not base64": ("/predict", b'{"poster": "!"}', JSON, 422, "not base64"),
    "HTML": ("/predict", poster(b"<!DOCTYPE html><html>"), JSON, 422, "HTML; expected JPEG, PNG or WebP"),
    "a GIF": ("/predict", poster(picture(kind="GIF")), JSON, 422, "a GIF"),
    "a truncated JPEG": ("/predict", poster(picture(size=(300, 300))[:3000]), JSON, 422, "truncated"),
    "a truncated PNG": ("/predict", poster(picture(size=(300, 300), kind="PNG")[:-2000]), JSON, 422, "broken PNG"),
    "a decompression bomb": ("/predict", poster(bomb()), JSON, 413, "40000x40000 pixels; at most 25,000,000"),
    "a poster of six megabytes": ("/predict", *form({"poster": bytes(6_000_000)}), 413, "at most 5,000,000"),
    "a form without a boundary": ("/predict", FORM, "multipart/form-data", 400, "without a boundary"),
    "another boundary": ("/predict", FORM, "multipart/form-data; boundary=other", 400, "malformed form"),
    "an empty boundary": ("/predict", FORM, "multipart/form-data; boundary=", 400, "without a boundary"),
    "a truncated form": ("/predict", FORM[:200], FORM_TYPE, 400, "truncated form"),
    "an empty form": ("/predict", b"", FORM_TYPE, 400, "truncated form"),
    "a form with an unknown field": ("/predict", *form({"text": "x"}), 422, "'text': unknown field"),
    "a plot as a file": ("/predict", *form({"plot": b"x"}), 422, "'plot': a file"),
    "a form in invalid UTF-8": ("/predict", FORM.replace(b"A plot", b"A \xff\xfe"), FORM_TYPE, 400, "not UTF-8"),
    "a field twice": ("/predict", FORM.replace(b'"poster";', b'"plot";'), FORM_TYPE, 422, "more than one"),
    "a hundred fields": ("/predict", *form({str(n): "x" for n in range(100)}), 413, "more than 16 fields"),
    "fields without a name": ("/predict", FORM.replace(b"; name", b"; nam"), FORM_TYPE, 400, "Field name not found"),
    "no Content-Type": ("/predict", b"{}", None, 415, "none; expected application/json"),
    "XML": ("/predict", b"<a/>", "application/xml", 415, "'application/xml'; expected"),
    "a URL-encoded form": ("/predict", b"plot=x", "application/x-www-form-urlencoded", 415, "expected"),
    "a batch to explain": ("/explain", b'{"movies": [{}]}', JSON, 422, "expected one movie"),
    "HTML to explain": ("/explain", poster(b"<html>"), JSON, 422, "HTML"),
    "no table": ("/tag", *form({"plot": "x"}), 422, "expected a CSV file in the field table"),
    "JSON for a table": ("/tag", b"{}", JSON, 415, "expected multipart/form-data"),
    "an empty table": ("/tag", *form({"table": b""}), 422, "no column plot"),
    "a table without rows": ("/tag", *form({"table": b"plot\n"}), 422, "no rows"),
    "a table without plots": ("/tag", *form({"table": b"id,name\n1,2\n"}), 422, "found 'id', 'name'"),
    "a table with a longer row": (
        "/tag",
        *form({"table": b"id,plot\n1,x\n1,x,2\n"}),
        422,
        "line 3 has 3 cells",
    ),
    "a table with a cell of 200,000 characters": (
        "/tag",
        *form({"table": b"plot\n" + b"x" * 200_000}),
        422,
        "line 2 cannot be read (field larger",
    ),
    "a table with an open quote": (
        "/tag",
        *form({"table": b'id,plot\n1,"x\n'}),
        422,
        "line 2 cannot be read (unexpected end",
    ),
    "a table in invalid UTF-8": ("/tag", *form({"table": b"id,plot\n1,\xff\n"}), 422, "not UTF-8"),
    "an image for a table": ("/tag", *form({"table": picture()}), 422, "not UTF-8"),
    "a table with two plots": (
        "/tag",
        *form({"table": b"plot,plot\n1,2\n"}),
        422,
        "more than one column 'plot'",
    ),
    "a table with 700,001 columns": (
        "/tag",
        *form({"table": ("plot," + ",".join(f"c{number}" for number in range(700_000)) + "\n").encode()[:4_900_000]}),
        413,
        "columns; expected at most 500: use jobs/tag.py",
    ),
    "a long table": ("/tag", *form({"table": TABLE.encode()}), 413, "use jobs/tag.py"),
    "a large table": ("/tag", *form({"table": b"plot\n" + b"x" * 5_000_000}), 413, "use jobs/tag.py"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_gets_a_one_line_error(case, client):
    path, body, content_type, expected_status, expected_text = BAD_REQUESTS[case]

    status, headers, answer = client.request("POST", path, body, content_type)

    message = json.loads(answer)["error"]
    assert (status, expected_text in message, "\n" in message) == (expected_status, True, False), message
    assert headers["Content-Type"] == JSON
    # The connection can be used for the next request.
    assert client.get("/health")[0] == 200


def corrupted_requests():
    """Hundreds of different bad requests: path, body and content type."""
    for value, field in itertools.product((0, -1.5, 1e308, 10**30, True, [], [1], ["x"], {}, {"x": 1}), MOVIE_FIELDS):
        movie = {"title": "A title"} | {field: value}
        yield from ((path, json.dumps(movie), JSON) for path in ("/predict", "/explain"))
        yield "/predict", json.dumps({"movies": [{"plot": "A plot."}, movie]}), JSON
    whole = json.dumps({"title": "A title", "plot": "A \u00e9 plot.", "poster": None})
    yield from (("/predict", whole[:end], JSON) for end in range(len(whole)))
    yield from (("/predict", FORM[:end], FORM_TYPE) for end in range(0, len(FORM) - 4, 7))
    for kind in ("JPEG", "PNG", "WEBP"):
        image = picture(size=(200, 300), kind=kind)
        for share in np.linspace(0.02, 0.9, 15):
            yield "/predict", poster(image[: int(share * len(image))]), JSON
            yield "/explain", *form({"poster": image[: int(share * len(image))]})
    for content, count in itertools.product(
        (b"%PDF-1.7", b"<svg/>", b"BM", b"GIF89a", b"\0" * 50, b"\xff\xd8\xff"), (1, 90)
    ):
        yield "/predict", poster(content * count), JSON
    for delimiter, row in itertools.product(",;\t", ("1", "1{0}2{0}3", '"1', '1{0}"2', '"1"2{0}3')):
        yield "/tag", *form({"table": f"id{delimiter}plot\n{row.format(delimiter)}\n".encode()})


def test_hundreds_of_corrupted_requests_each_get_a_one_line_error(client):
    requests = list(dict.fromkeys(corrupted_requests()))
    answers = [client.request("POST", *request) for request in requests]

    assert len(requests) > 400
    for request, (status, _, answer) in zip(requests, answers, strict=True):
        assert 400 <= status < 500, request
        message = json.loads(answer)["error"]
        assert len(message) > 20 and "\n" not in message, request
