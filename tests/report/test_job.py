"""Reports of generated tables: the content of the page, its files, and rejected inputs."""

import base64
import io
import json
import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest
from browser import launched, visit
from PIL import Image
from predictions import predictions

from mmgenre.errors import InputError
from mmgenre.evaluation.compare import CompareConfig, compare
from mmgenre.evaluation.job import EvaluateConfig, evaluate
from mmgenre.labels import GENRES, decode
from mmgenre.models.checkpoint import Card
from mmgenre.models.fusion import LateFusionConfig
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.vgg import VggConfig
from mmgenre.report.job import ReportConfig, report
from mmgenre.report.movies import MovieColumns
from mmgenre.report.movies_section import movies_section
from mmgenre.report.training_section import TrainingRecord
from mmgenre.scoring.metrics import expected_calibration_error
from mmgenre.scoring.thresholds import fit_thresholds
from mmgenre.tables.manifest import Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, POSTERS, PREDICTIONS, per_genre
from mmgenre.tables.table import Table, TableWriter

NUM_MOVIES = 160
SPLITS = ["train"] * 30 + ["val"] * 10 + ["test"] * 120
IDS = [f"tt{number:07}" for number in range(NUM_MOVIES)]
CHANCES, LABELS = predictions(NUM_MOVIES, frequencies=np.linspace(0.2, 0.5, 9))
# A weaker model.
OTHER_CHANCES = np.clip(CHANCES + np.random.default_rng(1).normal(scale=0.15, size=CHANCES.shape), 0, 1)
HOSTILE_TITLE = "<script>alert(1)</script> & Sons"
HOSTILE_PLOT = '"><img src=x onerror=alert(2)> a plot of <b>ten</b> words'
EPOCH = {"f1_of_averages": 0.5, "micro_f1": 0.5, "rows_per_second": 100.0, "seconds": 2.0}
HISTORY = [
    {"epoch": 1, "loss": 0.61, "val_loss": 0.55, "macro_f1": 0.41, "mean_average_precision": 0.45} | EPOCH,
    {"epoch": 2, "loss": 0.41, "val_loss": 0.4321, "macro_f1": 0.512, "mean_average_precision": 0.561} | EPOCH,
    {"epoch": 3, "loss": 0.31, "val_loss": 0.49, "macro_f1": 0.5, "mean_average_precision": 0.55} | EPOCH,
]


@dataclass
class ParsedPage(HTMLParser):
    """Tables, images, links and text of a page."""

    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    images: list[dict[str, str]] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    tags: list[str] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    scopes: int = 0
    text: str = ""

    @classmethod
    def of(cls, html):
        """Parse the HTML of a page."""
        page = cls()
        HTMLParser.__init__(page)
        page._rows, page._caption, page._into = [], "", None
        page.feed(html)
        return page

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.attributes |= set(attributes)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        self.anchors |= {attributes["id"]} if "id" in attributes else set()
        self.scopes += "scope" in attributes
        if tag == "img":
            self.images.append(attributes)
        if tag == "table":
            self._rows, self._caption = [], attributes.get("aria-label", "")
        if tag == "tr":
            self._rows.append([])
        if tag in ("th", "td"):
            self._rows[-1].append("")
        self._into = tag if tag in ("th", "td", "caption", "style") else self._into

    def handle_endtag(self, tag):
        if tag == "table":
            self.tables[self._caption] = self._rows
        if tag in ("th", "td", "caption", "style"):
            self._into = None

    def handle_data(self, data):
        if self._into == "style":
            return
        self.text += data
        if self._into == "caption":
            self._caption += data
        elif self._into is not None:
            self._rows[-1][-1] += data

    def table(self, beginning):
        """Rows of the table whose caption begins like this."""
        (rows,) = [rows for caption, rows in self.tables.items() if caption.startswith(beginning)]
        return rows


def write(directory, schema, columns, notes=None):
    nothing = {name: [None] * len(columns["imdb_id"]) for name in schema.names}
    with Output(str(directory), Recipe(job="test", settings={}, inputs={})) as output:
        writer = TableWriter(output, schema)
        writer.write(pa.table(nothing | columns, schema=schema))
        writer.finish(rows_in=len(columns["imdb_id"]), notes=notes)
    return str(directory)


def poster(number):
    content = io.BytesIO()
    Image.new("RGB", (200, 300), (number % 256, 80, 120)).save(content, "JPEG")
    return content.getvalue()


def tagged(directory, chances):
    known = np.arange(NUM_MOVIES) != NUM_MOVIES - 1
    thresholds = fit_thresholds(chances[:40], LABELS[:40])
    decided = chances >= thresholds.cutoffs()
    columns = {
        "imdb_id": IDS,
        "status": ["text_only" if one else "no_input" for one in known],
        "probabilities": per_genre(np.where(known[:, None], chances, np.nan)),
        "genres": [decode(row) if one else None for row, one in zip(decided, known, strict=True)],
    }
    notes = {"thresholds": thresholds.model_dump(), "cutoffs": {"text_only": thresholds.cutoffs().tolist()}}
    return write(directory, PREDICTIONS, columns, notes)


def trained(directory, model, dataset, history=HISTORY, rates=()):
    directory.mkdir()
    (directory / "checkpoint.json").write_text(Card(model=model, dataset=dataset).model_dump_json())
    (directory / "history.json").write_text(json.dumps({"history": history}))
    if rates:
        from torch.utils.tensorboard import SummaryWriter

        # The last step is repeated, as after a resume.
        for first, values in ((0, [*rates[:-1], 9.0]), (len(rates) - 1, rates[-1:])):
            with SummaryWriter(str(directory / "tensorboard"), purge_step=first) as writer:
                for step, rate in enumerate(values, start=first):
                    writer.add_scalar("train/lr_head", rate, step)
    return str(directory)


@dataclass(frozen=True)
class Places:
    """Folders of all inputs of a report."""

    tables: dict[str, str]
    models: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    plots = [f"{HOSTILE_PLOT} {number}" if number % 5 else None for number in range(NUM_MOVIES)]
    images = [poster(number) if number % 2 else None for number in range(NUM_MOVIES)]
    columns = {
        "imdb_id": IDS,
        "split": SPLITS,
        "title": [f"{HOSTILE_TITLE} {number}" for number in range(NUM_MOVIES)],
        "plot": plots,
        "image": images,
        "labels": per_genre(LABELS),
    }
    statuses = ["ok" if plot else "not_found" for plot in plots]
    fetched = {"provider": ["dump"] * NUM_MOVIES, "status": statuses, "fetched_at": [0] * NUM_MOVIES, "plot": plots}
    counts = dict.fromkeys(GENRES, 50)
    notes = {
        "curation": [{"step": "rows in the dump", "rows": 4321}],
        "genres": counts,
        "genres_before_balancing": counts | {"Drama": 987},
    }
    genres = {"title": columns["title"], "genres": [decode(row) for row in LABELS]}
    image_statuses = ["ok" if image else "placeholder" for image in images]
    tables = {
        "movies": write(root / "movies", MOVIES, columns),
        "catalog": write(root / "catalog", CATALOG, {"imdb_id": IDS} | genres, notes),
        "enriched": write(root / "enriched", ENRICHED, {"imdb_id": IDS} | fetched),
        "posters": write(root / "posters", POSTERS, {"imdb_id": IDS, "status": image_statuses, "image": images}),
    }
    dataset = Table(tables["movies"]).manifest.fingerprint
    fusion = LateFusionConfig(text={"model": TfidfConfig()}, image={"model": VggConfig()})
    models = {
        "late": {
            "predictions": tagged(root / "late", OTHER_CHANCES),
            "checkpoint": trained(root / "late-checkpoint", fusion, "another", rates=[0.0, 0.002, 0.001]),
        },
        "words": {
            "predictions": tagged(root / "words", CHANCES),
            "checkpoint": trained(root / "words-checkpoint", TfidfConfig(), dataset, history=[]),
        },
    }
    return Places(tables, models)


@pytest.fixture(scope="module")
def full(places, tmp_path_factory):
    """Config and page of a report with every input."""
    config = ReportConfig(
        **places.tables,
        models=places.models,
        output=str(tmp_path_factory.mktemp("full") / "report"),
        resamples=50,
        samples=4,
        mistakes=3,
        max_posters=3,
    )
    report(config)
    return config, ParsedPage.of(Path(config.page).read_text())


@pytest.fixture(scope="module")
def site(places, tmp_path_factory):
    """Config and page of a site with one of the models."""
    config = ReportConfig(
        **places.tables,
        models={"late": places.models["late"]},
        output=str(tmp_path_factory.mktemp("site") / "report"),
        resamples=50,
        samples=4,
        site=True,
    )
    report(config)
    return config, ParsedPage.of(Path(config.page).read_text())


@pytest.fixture(scope="module")
def minimal(places, tmp_path_factory):
    """Config and page of a report on the MOVIES table alone."""
    output = tmp_path_factory.mktemp("minimal") / "report"
    config = ReportConfig(movies=places.tables["movies"], output=str(output), samples=0)
    report(config)
    return config, ParsedPage.of(Path(config.page).read_text())


def test_every_section_is_on_the_page_and_in_the_contents(full):
    _, page = full
    links = [address[1:] for address in page.addresses if address.startswith("#")]

    for title in (
        "Genres before and after balancing",
        "Genres per movie",
        "Genre co-occurrence",
        "Plot lengths",
        "Missing plots and posters",
        "Splits",
        "Sample movies",
        "Training",
        "Model comparison",
        "Scores by genre",
        "Precision-recall curves",
        "Model late",
        "Model words",
    ):
        assert page.text.count(title) >= 2, title
    for part in ("thresholds", "calibration", "confusions", "mistakes"):
        assert [f"{part}-1-late", f"{part}-2-words"] == [link for link in links if link.startswith(f"{part}-")]
    assert set(links) <= page.anchors
    assert ": missing." not in page.text


def test_scores_equal_those_of_evaluate_and_compare(full, tmp_path):
    config, page = full
    judged = {"movies": config.movies, "resamples": 50, "output": str(tmp_path)}
    reports = {
        name: evaluate(EvaluateConfig(predictions=model.predictions, **judged)) for name, model in config.models.items()
    }
    folders = {name: model.predictions for name, model in config.models.items()}
    compared = compare(CompareConfig(predictions=folders, against="late", **judged)).split("\n\n")

    words, late = page.table("Scores of all models")[1:]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in compared[1].splitlines()[2:]]
    assert [[row[0], *row[2:]] for row in (late, words)] == lines
    assert (words[1], late[1]) == ("plot", "plot + poster")
    difference = [cell.strip() for cell in compared[2].splitlines()[2].strip("|").split("|")]
    assert page.table("Differences from late")[1] == difference
    for name, scored in reports.items():
        rows = page.table(f"{name}: scores per genre")[1:]
        for row, one in zip(rows, scored.scores.genres, strict=True):
            assert row[0] == one.genre
            assert row[1].startswith(f"{one.precision:.3f} [")
            assert row[2].startswith(f"{one.recall:.3f} [")
            assert row[3] == f"{one.f1:.3f} {scored.interval(one.genre)}"
            assert row[4:] == [f"{one.average_precision:.3f}", str(one.support), str(one.predicted)]


def test_movies_without_a_prediction_do_not_count_for_calibration(full):
    _, page = full
    scored = slice(SPLITS.index("test"), NUM_MOVIES - 1)
    error = expected_calibration_error(CHANCES[scored].astype(np.float32), LABELS[scored])

    assert (
        f"words: reliability diagram of the {119 * 9:,} probabilities of the 119 movies with a prediction" in page.text
    )
    assert f"Expected calibration error: {error:.3f}." in page.text.rpartition("Model words")[2]


def test_counts_of_movies_equal_those_of_the_tables(full):
    _, page = full
    genres, missing = page.table("Movies per genre."), page.table("Missing in the 160 movies")

    assert genres[0] == ["genre", "dump, before balancing", "catalogue, after balancing", "dataset"]
    drama = GENRES.index("Drama")
    assert genres[1 + drama] == ["Drama", "987", "50", str(int(LABELS[:, drama].sum()))]
    assert missing[1:] == [["no plot", "32", "20.0%"], ["no poster", "80", "50.0%"]]
    assert ["not found", "32", "20.0%"] in page.table("Results of fetching plots")
    assert ["placeholder", "80", "50.0%"] in page.table("Results of fetching posters")
    assert page.table("Movies per split")[1:] == [
        ["train", "30", "18.8%", "80.0%"],
        ["val", "10", "6.2%", "80.0%"],
        ["test", "120", "75.0%", "80.0%"],
    ]
    assert ["rows in the dump", "4,321"] in page.table("Rows of the dump")
    both = int((LABELS[:, 0] * LABELS[:, 8]).sum())
    assert page.table("Movies with both genres.")[1][9] == str(both)
    assert page.table("P(column | row).")[1][9] == f"{both / LABELS[:, 0].sum():.1%}"


def test_training_is_shown_for_models_with_and_without_epochs(full):
    _, page = full

    assert page.table("Loss and scores per epoch.")[2][:5] == ["2", "0.4100", "0.4321", "0.512", "0.561"]
    alts = [image["alt"] for image in page.images]
    assert "late: validation loss is lowest after epoch 2 of 3: 0.4321." in alts
    assert "late: peak learning rates: head 0.002." in alts
    assert "words (tfidf) is fitted in one step" in page.text
    assert [row[-1] for row in page.table("Coverage.")[1:]] == ["another dataset", "this dataset"]


def test_repeated_steps_are_shown_once_without_a_warning(places, caplog):
    steps, rates = TrainingRecord.read(places.models["late"]["checkpoint"]).rates["head"]

    assert list(steps) == [0, 1, 2]
    assert list(rates) == pytest.approx([0.0, 0.002, 0.001])
    assert not caplog.records


def test_the_most_confident_mistakes_are_shown_as_movies(full):
    _, page = full
    scored = slice(SPLITS.index("test"), NUM_MOVIES - 1)
    cutoffs = fit_thresholds(CHANCES[:40], LABELS[:40]).cutoffs()
    chances = CHANCES[scored].astype(np.float32)
    false = np.where((chances >= cutoffs) & (LABELS[scored] == 0), chances, 0)
    place, genre = np.unravel_index(int(false.argmax()), false.shape)

    shown = page.text.rpartition("Model words")[2].partition("False positives with the highest")[2]
    first, _, _ = shown.partition("False negatives with the lowest")[0].partition("tt")
    assert f"{HOSTILE_TITLE} {scored.start + place}" in first
    title = f"{HOSTILE_TITLE} {scored.start + place}"
    assert [GENRES[genre], f"{false.max():.1%}", "false positive"] in page.tables[f"Genres of {title}"]
    assert page.text.count("false positive") >= 6


def test_markup_in_titles_and_plots_is_escaped(full):
    _, page = full

    assert HOSTILE_TITLE in page.text
    assert HOSTILE_PLOT in page.text
    assert "script" not in page.tags
    assert "onerror" not in page.attributes


def test_the_page_is_self_contained(full):
    config, page = full
    html = Path(config.page).read_text()

    assert all(re.match(r"data:|#", address) for address in page.addresses)
    assert "url(" not in html
    assert "@import" not in html
    for image in page.images:
        kind, _, content = image["src"].partition(";base64,")
        if kind == "data:image/svg+xml":
            svg = base64.b64decode(content).decode()
            assert all(re.match(r"#|data:", link) for link in re.findall(r'href="([^"]*)"', svg))
            assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", svg))
            assert "<script" not in svg
    assert str(Path(config.output)) not in html


def test_every_image_has_an_alternative_text_and_every_table_headers(full):
    _, page = full

    assert all(image["alt"].strip() for image in page.images)
    charts = [image for image in page.images if image["src"].startswith("data:image/svg+xml")]
    assert all(image["alt"].endswith(".") for image in charts)
    assert page.scopes == page.tags.count("th")
    assert page.tags.count("caption") + page.tags.count("h4") - 4 == page.tags.count("table")


def test_posters_are_small_and_no_more_than_max_posters(full):
    _, page = full
    posters = [image["src"] for image in page.images if image["src"].startswith("data:image/jpeg")]

    assert 0 < len(set(posters)) <= 3
    sizes = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))).size for one in posters]
    assert {max(size) for size in sizes} == {180}
    assert "poster not shown" in page.text


def test_every_figure_on_the_page_is_also_a_file(full):
    config, page = full
    figures = Path(config.output, "figures")
    names = {path.name for path in figures.iterdir()}
    charts = [anchor.removeprefix("figure-") for anchor in page.anchors if anchor.startswith("figure-")]

    assert len(charts) == 15
    for chart in charts:
        assert any(name.startswith(chart) and name.endswith(".svg") for name in names)
    svgs = [path.read_bytes() for path in figures.iterdir()]
    assert all(b"<path" in svg and b"</text>" in svg for svg in svgs)
    embedded = [image["src"].partition(",")[2] for image in page.images if "svg" in image["src"][:20]]
    assert {base64.b64decode(content) for content in embedded} == set(svgs)


def test_equal_figures_are_equal_files(full, site):
    one, other = (Path(config.output, "figures") for config, _ in (full, site))
    # Figures that compare models differ.
    same = [path.name for path in other.iterdir() if not re.match(r"scores-by|precision-", path.name)]

    assert len(same) > 25
    assert [name for name in same if (one / name).read_bytes() != (other / name).read_bytes()] == []


def test_a_site_is_a_set_of_files_with_relative_links(site):
    config, page = site
    root = Path(config.output)
    files = [address for address in page.addresses if not re.match(r"#|data:,$", address)]

    assert config.page.endswith("/index.html")
    assert {"index.html", "style.css", ".nojekyll", "figures", "posters"} <= {path.name for path in root.iterdir()}
    assert len(files) > 40
    assert [name for name in files if name.startswith("/") or ":" in name or not (root / unquote(name)).is_file()] == []
    for text in (Path(config.page).read_text(), (root / "style.css").read_text()):
        assert str(root.parent) not in text
        assert "url(" not in text
    assert "--page:" in (root / "style.css").read_text()
    assert "style" not in page.tags
    assert "Give the predictions of another model: models.OTHER" in page.text


def problems_in_browser(browser, url, width):
    """Alternative texts of images that stay empty, and elements cut off by a screen of this width."""
    with visit(browser, url, viewport={"width": width, "height": 800}) as page:
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        page.evaluate("for (const image of document.images) image.loading = 'eager'")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        empty = page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.alt)")
        cut_off = page.evaluate(
            """[...document.querySelectorAll('body *:not(.skip)')].filter(element =>
                (!element.closest('.scroll') || element.matches('caption span'))
                && element.getBoundingClientRect().right > innerWidth + 1
            ).map(element => element.outerHTML.slice(0, 80))"""
        )
        assert page.evaluate("document.images.length") > 20
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    return empty, cut_off


@pytest.mark.process
def test_a_browser_shows_the_page_on_a_phone_and_the_site_from_a_folder_of_a_server(full, site):
    """The page makes no request; the site requests only its own files."""
    root = Path(site[0].output).parent
    handler = partial(QuietHandler, directory=root)
    with launched() as browser, ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/{Path(site[0].output).name}/"
            assert problems_in_browser(browser, url, 1280) == ([], [])
            assert problems_in_browser(browser, Path(full[0].page).as_uri(), 390) == ([], [])
        finally:
            server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves the files of a folder without logging requests."""

    def log_message(self, *_):
        pass


def test_a_page_without_models_names_the_missing_inputs(minimal):
    config, page = minimal

    for remedy in (
        "catalog=DIR",
        "enriched=DIR",
        "posters=DIR",
        "models.NAME.checkpoint=DIR",
        "models.NAME.predictions=DIR",
    ):
        assert remedy in page.text
    assert page.text.count(": missing.") == 5
    assert "Movies per split" in page.text
    assert not Path(config.output, "figures/precision-recall-drama.svg").exists()


def test_a_second_run_returns_the_report_and_other_settings_replace_it(minimal, tmp_path):
    config, output = minimal[0], tmp_path / "report"
    shutil.copytree(config.output, output)
    config = config.model_copy(update={"output": str(output)})
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    first = report(config)
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before

    again = config.model_copy(update={"site": True, "title": "Another <title>"})
    assert report(again).fingerprint != first.fingerprint
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"_run.json", "index.html", "style.css", ".nojekyll", "figures"}
    assert "<h1>Another &lt;title&gt;</h1>" in Path(again.page).read_text()

    Path(again.page).unlink()
    report(again)
    assert "<h1>Another &lt;title&gt;</h1>" in Path(again.page).read_text()


def rejection(places, output, **changes):
    with pytest.raises(InputError) as error:
        report(ReportConfig.parse({"movies": places.tables["movies"], "output": str(output)} | changes, where="test"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_invalid_inputs_are_rejected_in_one_line(places, tmp_path):
    words = places.models["words"]
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/checkpoint.json").write_text(Path(words["checkpoint"], "checkpoint.json").read_text())
    (tmp_path / "checkpoint/history.json").write_text("[]")

    assert "against: a is not one of the models words" in rejection(places, "OUT", models={"words": words}, against="a")
    assert f"{tmp_path}: no table there" in rejection(places, "OUT", movies=str(tmp_path))
    assert "without the columns status" in rejection(
        places, "OUT", models={"a": {"predictions": places.tables["movies"]}}
    )
    broken = {"a": words | {"checkpoint": str(tmp_path / "checkpoint")}}
    assert "history.json: not a training history" in rejection(places, "OUT", models=broken)
    assert "models.a.prediction: unknown field; did you mean predictions" in rejection(
        places, "OUT", models={"a": words | {"prediction": "x"}}
    )


def test_the_checkpoint_of_another_model_is_rejected(places, tmp_path):
    rows = Table(places.models["words"]["predictions"]).read()
    settings = {"model": {"weights": "0" * 64}}
    with Output(str(tmp_path / "tags"), Recipe(job="tag", settings=settings, inputs={})) as output:
        writer = TableWriter(output, PREDICTIONS)
        writer.write(rows)
        writer.finish(rows_in=len(rows))
    models = {"words": places.models["words"] | {"predictions": str(tmp_path / "tags")}}

    assert "not the model that made the predictions" in rejection(places, tmp_path / "out", models=models)


def test_movies_with_one_genre_each_have_no_co_occurrence():
    movies = MovieColumns(
        pa.chunked_array([IDS[:9]]), pa.chunked_array([["train"] * 9]), np.eye(9), *[np.zeros(9, int)] * 2, 0
    )
    section = movies_section(movies, {}, [])

    alts = [panel.alt for chart in section.charts for panel in chart.panels]
    assert "No movie has two genres." in alts


def test_a_folder_with_other_content_is_left_alone(places, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")

    assert "holds other files" in rejection(places, tmp_path)
    assert "holds the output of jobs/test.py" in rejection(places, places.tables["posters"])
    assert Table(places.tables["posters"]).manifest.rows == NUM_MOVIES
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
