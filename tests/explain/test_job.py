"""jobs/explain.py: one movie as a self-contained page, a table of movies as a table of explanations."""

import contextlib
import csv
import io
import runpy
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import launched, visit
from PIL import Image
from services import PLOTS, picture, save_fusion

from mmgenre.errors import InputError
from mmgenre.explain.attribution import Explainer
from mmgenre.explain.config import ExplainMovieConfig, ExplainTableConfig
from mmgenre.explain.movie import explain_movie
from mmgenre.explain.table import EXPLANATIONS, ExplainSettings, ExplainUnits, explain_table
from mmgenre.labels import GENRES
from mmgenre.models import checkpoint
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.vgg import VggConfig
from mmgenre.posters.images import shrink
from mmgenre.scoring.thresholds import Thresholds
from mmgenre.tables.schema import MOVIES, from_per_genre, per_genre
from mmgenre.tables.table import Table
from mmgenre.tagging.actors import Tagger

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, ROOT / "jobs/explain.py", ROOT / "configs/explain/default.yaml"]
TITLE = 'The "Lamp" & <i>co</i>'
PLOT = "A tired detective hunts 👩‍🚀 a killer,\n<script>alert(1)</script> in the rain — l'été; the moon & more."
HALF = Thresholds(per_genre=(0.5,) * len(GENRES), global_threshold=0.5, kind="per_genre")


@pytest.fixture(scope="module")
def fusion(tmp_path_factory):
    return save_fusion(tmp_path_factory.mktemp("models") / "fusion")


@pytest.fixture(scope="module")
def tfidf(tmp_path_factory):
    labels = np.random.default_rng(0).integers(0, 2, (len(PLOTS), len(GENRES))).astype(np.float32)
    return saved(TfidfConfig(), TfidfConfig().fit(Movies.of_plots(PLOTS), labels), tmp_path_factory)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    config = VggConfig(weights=None, head="light", height=32, width=32, augment=None)
    return saved(config, config.build(Movies.of_plots([])), tmp_path_factory)


def saved(config, model, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("models") / config.family)
    checkpoint.save(model, checkpoint.Card(model=config, thresholds=HALF), directory)
    return directory


def of_movie(**settings):
    return ExplainMovieConfig.parse(settings, "test")


def of_table(**settings):
    return ExplainTableConfig.parse(
        {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}, "test"
    )


# One movie


class Page(HTMLParser):
    """Tags, addresses, and the text below each kind of tag."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.addresses, self.texts, self._open = [], [], {}, []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._open.append((tag, dict(attributes).get("class") or ""))
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]
        if tag in ("meta", "link", "img", "br"):
            self._open.pop()

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        if self._open and self._open[-1][1] != "spoken":
            for tag, kind in self._open:
                self.texts.setdefault(f"{tag}.{kind}", []).append(data)

    def text(self, name):
        return "".join(self.texts.get(name, []))


@pytest.fixture(scope="module")
def explained(fusion, tmp_path_factory):
    """Output folder of the command line, its standard output, and its settings."""
    folder = tmp_path_factory.mktemp("explained")
    (folder / "plot.txt").write_text(PLOT, encoding="utf-8")
    (folder / "poster.png").write_bytes(picture(3, (60, 90), "PNG"))
    given = [f"checkpoint={fusion}", f"plot=@{folder}/plot.txt", f"poster={folder}/poster.png", f"title={TITLE}"]
    stdout = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout):
        patch.setattr(sys, "argv", [*map(str, COMMAND[1:]), *given, f"output={folder}/why"])
        runpy.run_path(str(COMMAND[1]), run_name="__main__")
    settings = dict(one.split("=", 1) for one in given)
    return folder / "why", stdout.getvalue(), settings


def test_a_movie_becomes_a_page_and_a_picture_per_genre(explained, fusion):
    output, said, _ = explained
    *lines, where = said.splitlines()

    assert where == str(output / "explanation.html")
    tagger = Tagger.load(fusion, "fp32")
    rows = {
        "imdb_id": [""],
        "title": [TITLE],
        "plot": [PLOT],
        "image": [picture(3, (60, 90), quality=95)],
        "input_digest": [0],
    }
    chances = from_per_genre(tagger.tag(pa.table(rows))["probabilities"])[0]
    best = [GENRES[column] for column in np.argsort(-chances)[:3]]
    assert [line.split(":")[0] for line in lines] == best
    names = {"_run.json", "explanation.html", *(f"heat-{genre.lower()}.png" for genre in best)}
    assert {path.name for path in output.iterdir()} == names
    for genre in best:
        assert Image.open(output / f"heat-{genre.lower()}.png").size == (60, 90)


def test_the_page_is_self_contained_and_escapes_markup(explained):
    content = (explained[0] / "explanation.html").read_text(encoding="utf-8")
    page = Page(content)

    assert not {"script", "iframe", "form", "i"} & set(page.tags)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "url(" not in content
    assert "@import" not in content
    assert page.text("title.") == page.text("h1.") == TITLE
    # The whole plot, three times, with marks.
    assert page.text("p.plot").replace("−", "") == f"{TITLE}. {PLOT}" * 3  # noqa: RUF001
    assert page.tags.count("mark") > 6
    assert page.tags.count("img") == 4


@pytest.mark.process
def test_the_page_fits_a_phone_and_makes_no_requests(explained):
    with launched() as browser:
        for width in (320, 390, 1280):
            url = f"file://{explained[0]}/explanation.html"
            with visit(browser, url, viewport={"width": width, "height": 800}) as page:
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.locator("mark").count() > 6
                assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_the_same_command_again_prints_the_same_and_changes_nothing(explained, monkeypatch):
    output, said, settings = explained
    monkeypatch.setattr(Tagger, "load", None)
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}

    assert explain_movie(of_movie(output=str(output), **settings)) == said.strip()

    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


@pytest.mark.parametrize(
    ("changed", "differs"),
    [({"plot": "Another plot."}, "movie"), ({"top_k": 2}, "top_k"), ({"genres": ["Drama"]}, "genres")],
)
def test_an_explanation_with_other_settings_is_not_overwritten(explained, changed, differs):
    output, _, settings = explained

    with pytest.raises(InputError, match=rf"other settings or inputs \(.*{differs}"):
        explain_movie(of_movie(output=str(output), **(settings | changed)))


def test_inputs_the_model_does_not_read_are_left_out(vgg, tfidf, tmp_path):
    (tmp_path / "poster.jpg").write_bytes(picture(1, (60, 90)))
    given = {"plot": PLOTS[0], "poster": str(tmp_path / "poster.jpg"), "genres": ["Drama", "Horror"]}

    by_poster = explain_movie(of_movie(checkpoint=vgg, output=str(tmp_path / "poster"), **given))
    by_plot = explain_movie(of_movie(checkpoint=tfidf, output=str(tmp_path / "plot"), **given))

    seen, read = (Page((tmp_path / name / "explanation.html").read_text()) for name in ("poster", "plot"))
    assert (seen.tags.count("mark"), seen.tags.count("img")) == (0, 3)
    assert read.tags.count("img") == 0
    assert read.text("p.plot").replace("−", "") == PLOTS[0] * 2  # noqa: RUF001
    assert [line.split(":")[0] for line in sorted(by_poster.splitlines()[:2])] == ["Drama", "Horror"]
    assert "tired" in by_plot
    assert not list((tmp_path / "plot").glob("*.png"))


REJECTED = {
    "give either plot=TEXT, poster=FILE or both": {"plot": None, "title": "A title"},
    "imdb_id and movies belong together": {"imdb_id": "tt1"},
    "give either plot=TEXT, poster=FILE or both, or imdb_id=ID with movies": {"imdb_id": "tt1", "movies": "a.csv"},
    "catalog, posters: used only with imdb_id": {"catalog": "somewhere", "posters": "elsewhere"},
    "genres: Western: unknown genre; expected some of Action": {"genres": ["Western"]},
    "plot: YAML does not parse this as text": {"plot": ["a"]},
    "top_k": {"top_k": 10},
    "none of the inputs of this model is known": {"plot": " "},
    r"no/such: .*expected": {"checkpoint": "no/such"},
    "no-plot.txt.*a text file with the plot": {"plot": "@no-plot.txt"},
    "no-poster.jpg.*a poster": {"poster": "no-poster.jpg"},
    r"poster=.*broken.jpg: ": {"poster": "BROKEN"},
}


@pytest.mark.parametrize("message", REJECTED)
def test_invalid_settings_are_rejected_in_one_line(fusion, tmp_path, message):
    changed = dict(REJECTED[message])
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    changed |= {"poster": str(tmp_path / "broken.jpg")} if changed.get("poster") == "BROKEN" else {}
    given = {"checkpoint": fusion, "plot": "A plot.", "output": str(tmp_path / "out")} | changed

    with pytest.raises(InputError, match=message) as error:
        explain_movie(of_movie(**given))

    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "_run.json").exists()


def test_undecodable_bytes_of_the_command_line_are_replaced():
    config = of_movie(checkpoint="a", output="b", plot="bad \udcff bytes")

    assert config.plot == "bad \ufffd bytes"


def test_a_movie_of_a_table_is_explained_by_its_id(fusion, movies, tmp_path):
    (tmp_path / "poster.jpg").write_bytes(picture(0))

    from_table = explain_movie(of_movie(checkpoint=fusion, movies=movies, imdb_id="tt0", output=str(tmp_path / "one")))
    given = {"plot": PLOTS[0], "poster": str(tmp_path / "poster.jpg"), "title": "Movie 0"}
    directly = explain_movie(of_movie(checkpoint=fusion, output=str(tmp_path / "two"), **given))

    assert from_table.splitlines()[:-1] == directly.splitlines()[:-1]
    with pytest.raises(InputError, match=r"imdb_id=tt99: not in "):
        explain_movie(of_movie(checkpoint=fusion, movies=movies, imdb_id="tt99", output=str(tmp_path / "three")))
    with pytest.raises(InputError, match=r"Movie 4: the poster is not an image that can be decoded"):
        explain_movie(of_movie(checkpoint=fusion, movies=movies, imdb_id="tt4", output=str(tmp_path / "four")))


# A table

KINDS = {
    "tt0": (PLOTS[0], shrink(picture(0), 384, 10**6).jpeg),
    "tt1": (PLOTS[1], None),
    "tt2": (None, picture(2)),
    "tt3": (None, None),
    "tt4": (None, b"<html>"),
    "tt5": ("👩‍🚀 l'été — סיפור\x00 robot", b"\xff\xd8broken"),
}
STATUSES = ["text_and_poster", "text_only", "poster_only", "no_input", "error", "text_only"]


@pytest.fixture(scope="module")
def movies(write_table, tmp_path_factory):
    """Twelve movies: each of six kinds twice, the second time in the test split."""
    plots, images = zip(*KINDS.values(), strict=True)
    columns = {
        "imdb_id": [f"tt{row}" for row in range(12)],
        "split": ["train"] * 6 + ["test"] * 6,
        "title": [f"Movie {row}" for row in range(12)],
        "plot": plots * 2,
        "image": pa.array(images * 2, pa.binary()),
        "labels": per_genre(np.zeros((12, len(GENRES)))),
    }
    return write_table(tmp_path_factory.mktemp("tables") / "movies", MOVIES, columns)


@pytest.fixture(scope="module")
def table(local_ray, fusion, movies, tmp_path_factory):
    output = tmp_path_factory.mktemp("tables") / "explained"
    config = of_table(checkpoint=fusion, movies=movies, output=output, overlays=True, top_k=2)
    manifest = explain_table(config)
    return config, manifest, Table(str(output), EXPLANATIONS).read().sort_by("imdb_id")


def test_every_movie_of_a_table_gets_one_row_with_attributions_or_a_status(table, fusion, movies):
    _, manifest, found = table
    rows = sorted(found.to_pylist(), key=lambda row: int(row["imdb_id"][2:]))

    assert [row["status"] for row in rows] == STATUSES * 2
    assert manifest.statuses == {"text_and_poster": 2, "text_only": 4, "poster_only": 2, "no_input": 2, "error": 2}
    tagged = Tagger.load(fusion, "fp32").tag(
        Table(movies).read().append_column("input_digest", pa.array([0] * 12, pa.int64()))
    )
    chances = from_per_genre(tagged["probabilities"])
    for row, expected in zip(rows, chances, strict=True):
        if row["status"] in ("no_input", "error"):
            assert (row["genres"], row["text"], row["words"], row["heat"]) == (None, None, None, None)
            assert row["probabilities"] == [None] * 9
            continue
        assert row["probabilities"] == pytest.approx(expected.tolist(), abs=1e-5)
        assert row["genres"] == [GENRES[column] for column in np.argsort(-expected)[:2]]
        check_words(row)
        check_heat(row)
    assert rows[4]["detail"] == "the poster is not an image that can be decoded"


def check_words(row):
    assert (row["text"] is None) == (row["words"] is None) == (row["status"] == "poster_only")
    for word in row["words"] or []:
        assert row["text"][word["start"] : word["end"]] == word["word"]
        assert word["genre"] in row["genres"]
        assert -1 <= word["score"] <= 1
    for genre in row["genres"] if row["words"] else []:
        assert max(abs(word["score"]) for word in row["words"] if word["genre"] == genre) == 1


def check_heat(row):
    assert (row["heat"] is None) == (row["status"] == "text_only")
    for heat in row["heat"] or []:
        assert len(heat["values"]) == heat["height"] * heat["width"] == 4
        assert 0 <= min(heat["values"]) <= max(heat["values"]) <= 1
        assert Image.open(io.BytesIO(heat["overlay"])).format == "JPEG"
    if row["heat"] is not None:
        assert [heat["genre"] for heat in row["heat"]] == row["genres"]


def test_a_row_equals_the_explanation_of_the_single_movie(table, fusion):
    row = table[2].to_pylist()[0]
    found = Explainer.load(fusion).explain("Movie 0", *KINDS["tt0"], row["genres"])

    said = {(word["start"], word["genre"]): word["score"] for word in row["words"]}
    expected = {(word.start, genre): score for word in found.words for genre, score in word.scores.items()}
    assert said == pytest.approx(expected, abs=1e-4)
    for heat in row["heat"]:
        assert heat["values"] == pytest.approx(found.heat[heat["genre"]].ravel().tolist(), abs=1e-4)


def test_a_complete_table_is_kept_and_other_settings_are_rejected(table, monkeypatch):
    config, manifest, _ = table
    monkeypatch.setattr("mmgenre.explain.table.compute_units", None)

    assert explain_table(config) == manifest
    for changed in ({"top_k": 3}, {"overlays": False}, {"limit": 3}, {"genres": ("Drama",)}):
        with pytest.raises(InputError, match=rf"other settings or inputs \(.*{next(iter(changed))}.*choose another"):
            explain_table(config.model_copy(update=changed))
    assert sorted(path.name for path in Path(config.output).iterdir() if not path.name.startswith("part-")) == [
        "_run.json"
    ]


def test_split_limit_and_genres_select_what_is_explained(local_ray, table, fusion, movies, tmp_path):
    config = of_table(
        checkpoint=fusion, movies=movies, output=tmp_path / "some", split="test", limit=2, genres=["Horror", "Comedy"]
    )
    explain_table(config)

    found = Table(str(tmp_path / "some"), EXPLANATIONS).read().to_pylist()
    assert [row["imdb_id"] for row in found] == ["tt6", "tt7"]
    assert [set(row["genres"]) for row in found] == [{"Horror", "Comedy"}] * 2
    assert [heat["overlay"] for heat in found[0]["heat"]] == [None, None]


@pytest.mark.process
def test_a_killed_job_resumes_without_losing_a_movie(local_ray, tfidf, tmp_path):
    with (tmp_path / "many.csv").open("w", newline="") as file:
        rows = [[f"tt{row:04}", f"{PLOTS[row % len(PLOTS)]} Part {row}."] for row in range(96)]
        csv.writer(file).writerows([["id", "plot"], *rows])
    given = {"checkpoint": tfidf, "movies": tmp_path / "many.csv", "output": tmp_path / "why"}
    command = [*COMMAND, *(f"{name}={value}" for name, value in given.items())]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while len(units(tmp_path)) < 3:
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
    kept = units(tmp_path)
    assert not (tmp_path / "why/_run.json").exists()

    manifest = explain_table(of_table(**given))

    found = Table(str(tmp_path / "why"), EXPLANATIONS).read().sort_by("imdb_id")
    assert found["imdb_id"].to_pylist() == [name for name, _ in rows]
    assert found["text"].to_pylist() == [plot for _, plot in rows]
    assert sum(manifest.notes["computed_in"].values()) <= 96 - sum(kept)


def units(folder):
    """Rows of each finished unit."""
    return [pq.read_metadata(path).num_rows for path in folder.glob("why/_work/*/units/unit-*.parquet")]


class FailsOn:
    """An explainer that fails on plots with some word."""

    def __init__(self, explainer, word):
        self._explainer, self._word = explainer, word

    def explain(self, title, plot, image, genres):
        if self._word in plot:
            raise RuntimeError("cannot explain this")
        return self._explainer.explain(title, plot, image, genres)


def test_one_failing_movie_gets_an_error_row_and_failing_on_all_raises(tfidf, monkeypatch):
    monkeypatch.setattr("mmgenre.ray_session.assigned_cpus", lambda: 1)
    config = of_table(checkpoint=tfidf, movies="a", output="b")
    stage = ExplainUnits(None, None, ExplainSettings(tfidf, None, 1, "auto", "fp32", (), config))
    explainer = stage._explainer
    rows = pa.table({"imdb_id": ["a", "b", "c"], "plot": [PLOTS[0], "poison", PLOTS[1]], "input_digest": [0, 0, 0]})

    stage._explainer = FailsOn(explainer, "poison")
    found = stage.results(rows).to_pylist()
    stage._explainer = FailsOn(explainer, "")
    with pytest.raises(RuntimeError, match="cannot explain this"):
        stage.results(rows)

    assert [row["status"] for row in found] == ["text_only", "error", "text_only"]
    assert found[1]["detail"] == "RuntimeError: cannot explain this"
    assert found[1]["probabilities"] == [None] * 9
    assert found[2]["words"]


def test_without_captum_nothing_is_written(tfidf, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)

    for explain, config in (
        (explain_table, of_table(checkpoint=tfidf, movies="a.csv", output=tmp_path / "out")),
        (explain_movie, of_movie(checkpoint=tfidf, plot="A plot.", output=str(tmp_path / "out"))),
    ):
        with pytest.raises(InputError, match=r"pip install 'mmgenre\[explain\]'"):
            explain(config)
    assert not (tmp_path / "out").exists()


def test_missing_inputs_and_untrained_models_are_rejected(vgg, tmp_path):
    (tmp_path / "mine.csv").write_text("id,plot\ntt1,A plot.\n")
    config = VggConfig(weights=None, head="light", height=32, width=32, augment=None)
    checkpoint.save(config.build(Movies.of_plots([])), checkpoint.Card(model=config), str(tmp_path / "untrained"))

    with pytest.raises(InputError, match=r"mine\.csv: no posters, which this model reads; give posters=DIR"):
        explain_table(of_table(checkpoint=vgg, movies=tmp_path / "mine.csv", output=tmp_path / "out"))
    given = {"plot": "A plot.", "output": str(tmp_path / "out")}
    with pytest.raises(InputError, match=r"^no input of this model is given; give poster=FILE$"):
        explain_movie(of_movie(checkpoint=vgg, **given))
    with pytest.raises(InputError, match="untrained"):
        explain_movie(of_movie(checkpoint=str(tmp_path / "untrained"), **given))
    with pytest.raises(InputError, match="untrained"):
        explain_table(of_table(checkpoint=str(tmp_path / "untrained"), movies="a.csv", output=tmp_path / "out"))
