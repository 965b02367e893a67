"""The demo page in a real browser, with the service in this process: what users do, and the errors they see."""

import asyncio
import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
from browser import drop, launched, visit
from PIL import Image
from services import ROOT, Client, in_base64, picture, save_fusion, service_in_process

from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.vgg import VggConfig
from mmgenre.scoring.thresholds import Thresholds
from mmgenre.serving.config import ServingConfig
from mmgenre.serving.examples import EXAMPLES
from mmgenre.serving.page import render_page
from mmgenre.serving.replicas import ExplainReplica, TagReplica

pytestmark = pytest.mark.process

PLOT = "Two sisters hunt a killer in the rain, and nobody listens.\n\nAn astronaut marries a clown on the moon."
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
# Visible controls that are less than 44 px high or wide: too small for a finger.
TOO_SMALL = """() => [...document.querySelectorAll("button, .button, input:not([type=file]), textarea, summary")]
    .filter(element => element.checkVisibility())
    .map(element => [element.id || element.textContent, element.getBoundingClientRect()])
    .filter(([, box]) => box.height < 44 || box.width < 44).map(([name]) => name)"""


def blank(width, height):
    content = io.BytesIO()
    Image.new("1", (width, height)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def model(browser, tmp_path_factory):
    """Checkpoint folder, and the calls that Ray Serve makes, in threads of this process."""
    directory = save_fusion(tmp_path_factory.mktemp("served") / "fusion")
    tagger, explainer = TagReplica(directory, "fp32", 1, False), ExplainReplica(directory, 1, False)
    return (
        directory,
        lambda movies: asyncio.to_thread(tagger.tag, movies),
        lambda movie, genres: asyncio.to_thread(explainer.explain, movie, genres),
    )


@pytest.fixture(scope="module")
def port(model):
    with service_in_process(*model) as client:
        yield client.connection.port


@pytest.fixture(scope="module")
def url(port):
    return f"http://127.0.0.1:{port}/"


def shown_genres(page):
    """Name and percentage of the three genres on the page."""
    rows = page.locator("#genres button")
    rows.first.wait_for()
    return list(zip(rows.locator(".name").all_inner_texts(), rows.locator(".number").all_inner_texts(), strict=True))


def expected_genres(port, **movie):
    """The same values from the API."""
    genres = Client(port).post("/predict", movie)[1]["probabilities"]
    genres.sort(key=lambda genre: -genre["probability"])
    return [(genre["genre"], f"{100 * genre['probability']:.1f} %") for genre in genres[:3]]


def wait_for_evidence(page):
    page.locator("#reasons").wait_for()


def predict(page, plot=PLOT):
    page.fill("#plot", plot)
    page.click("#movie-submit")
    wait_for_evidence(page)


def is_in_view(element):
    return element.evaluate(
        "element => { const box = element.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight; }"
    )


def is_too_wide(page):
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def test_a_pasted_plot_and_a_dropped_poster_give_three_genres_with_evidence(browser, url, port):
    poster = picture(3, size=(60, 90))
    with visit(browser, url, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.evaluate("text => navigator.clipboard.writeText(text)", PLOT)
        page.focus("#plot")
        page.keyboard.press("Control+V")
        drop(page, "#poster-drop", poster, "poster.jpg", "image/jpeg")
        page.locator("#poster-picture").wait_for()
        page.click("#movie-submit")

        assert shown_genres(page) == expected_genres(port, plot=PLOT, poster=in_base64(poster))
        wait_for_evidence(page)
        assert page.inner_text("#result-note") == "From the plot and the poster."
        first, second = (name for name, _ in shown_genres(page)[:2])
        assert first in page.inner_text("#reasons-title") and first in page.inner_text("#strongest")
        assert page.inner_text("#marked") == PLOT
        assert page.locator("#marked mark").count() > 0
        regions = page.get_attribute("#regions-picture", "src")
        assert page.evaluate("document.getElementById('regions-picture').naturalWidth") > 0

        page.locator("#genres button").nth(1).click()

        assert second in page.inner_text("#reasons-title")
        assert page.get_attribute("#regions-picture", "src") != regions
        assert [button.get_attribute("aria-pressed") for button in page.locator("#genres button").all()] == [
            "false",
            "true",
            "false",
        ]


def test_each_genre_states_whether_it_reaches_its_threshold(browser, url, port):
    with visit(browser, url) as page:
        predict(page)
        page.click("#others summary")
        verdicts = page.locator("#result .verdict").all_inner_texts()
        answer = Client(port).post("/predict", {"plot": PLOT})[1]

    ranked = sorted(answer["probabilities"], key=lambda genre: -genre["probability"])
    assert len(verdicts) == len(GENRES)
    for verdict, genre in zip(verdicts, ranked, strict=True):
        start = "predicted: reaches its threshold of" if genre["given"] else "not predicted: below its threshold of"
        assert verdict == f"{start} {100 * genre['threshold']:.1f} %"


def test_everything_can_be_done_with_the_keyboard_in_page_order(browser, url):
    with visit(browser, url) as page:
        order = []
        while "movie-submit" not in order:
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
            assert len(order) < 30
        assert order == [
            "skip",
            "movie-tab",
            *["example"] * len(EXAMPLES),
            "title",
            "plot",
            "poster-file",
            "movie-submit",
        ]

        page.focus("#plot")
        page.keyboard.type("A clown on the moon.")
        page.keyboard.press("Escape")
        page.keyboard.press("Control+Enter")
        wait_for_evidence(page)
        assert page.input_value("#plot") == "A clown on the moon."
        page.keyboard.press("Tab")
        while page.evaluate("document.activeElement.closest('#genres') === null"):
            page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert shown_genres(page)[1][0] in page.inner_text("#reasons-title")

        page.focus("#movie-tab")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "table-tab"
        assert page.locator("#table").is_visible() and not page.locator("#movie").is_visible()
        page.keyboard.press("ArrowRight")
        assert page.locator("#movie").is_visible() and not page.locator("#table").is_visible()


def test_a_phone_needs_no_horizontal_scrolling_and_controls_are_large_enough(browser, url):
    long_name = "an-uncommonly-long-name-of-a-file-without-any-spaces-in-it-whatsoever.csv"
    table = {"name": long_name, "mimeType": "text/csv", "buffer": f"title,plot\nOne,{'longword' * 80}\n".encode()}
    with visit(browser, url, **PHONE) as page:
        assert not is_too_wide(page) and page.evaluate(TOO_SMALL) == []
        page.locator(".example").first.tap()
        wait_for_evidence(page)
        page.fill("#title", "W" * 200)
        page.locator("#movie-submit").tap()
        wait_for_evidence(page)
        assert not is_too_wide(page) and page.evaluate(TOO_SMALL) == []
        page.locator("#table-tab").tap()
        page.set_input_files("#table-file", table)
        page.locator("#table-submit").tap()
        page.locator("#tagged").wait_for()
        assert not is_too_wide(page) and page.evaluate(TOO_SMALL) == []


def test_a_poster_of_50_mb_is_rejected_without_a_request_and_the_previous_one_stays(browser, url, tmp_path):
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.write(picture(kind="PNG"))
        file.truncate(50_000_000)
    with visit(browser, url) as page:
        page.set_input_files("#poster-file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": picture()})
        page.locator("#poster-picture").wait_for()
        page.set_input_files("#poster-file", huge)
        page.locator("#poster-problem:not(:empty)").wait_for()

        assert page.inner_text("#poster-problem") == ("huge.png has 50 MB; the limit is 5 MB. Choose a smaller image.")
        assert page.inner_text("#poster-name").startswith("a.jpg")
        assert page.asked() == []


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"%PDF-1.7 a document", "is not a JPEG, PNG or WebP file"),
        (picture(kind="PNG")[:40], "is damaged"),
        (blank(5100, 5000), "5000 pixels; the limit is 25 million"),
    ],
    ids=["a document", "a truncated image", "too many pixels"],
)
def test_an_invalid_poster_is_rejected_without_a_request(browser, url, content, expected_text):
    with visit(browser, url) as page:
        drop(page, "body", content, "poster.png", "image/png")
        page.locator("#poster-problem:not(:empty)").wait_for()

        assert expected_text in page.inner_text("#poster-problem")
        assert page.locator("#poster-picture").is_hidden() and page.asked() == []


def paste_picture(page, text=""):
    """Paste an image into the plot field, with or without a text version of it, as some programs copy both."""
    page.evaluate(
        """([bytes, text]) => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
            if (text) clipboardData.setData("text/plain", text);
            const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
            document.getElementById("plot").dispatchEvent(event);
        }""",
        [list(picture(kind="PNG")), text],
    )


def test_a_poster_can_be_pasted_and_removed(browser, url):
    with visit(browser, url) as page:
        paste_picture(page)
        page.locator("#poster-picture").wait_for()
        page.click("#poster-remove")

        assert page.locator("#poster-picture").is_hidden()
        assert page.evaluate("document.activeElement.id") == "poster-file"


def test_text_copied_with_an_image_of_it_is_pasted_as_text(browser, url):
    with visit(browser, url) as page:
        paste_picture(page, text=PLOT)
        drop(page, "body", b"no picture", "later.txt", "text/plain")
        page.locator("#poster-problem:not(:empty)").wait_for()

        assert page.locator("#poster-picture").is_hidden()


def test_a_lost_connection_is_reported_and_the_input_kept(browser, url):
    with visit(browser, url, may_fail=True, **PHONE) as page:
        page.fill("#plot", PLOT)
        page.context.set_offline(True)
        page.click("#movie-submit")
        page.locator("#movie-problem p").wait_for()
        assert "The service is not responding." in page.inner_text("#movie-problem")
        assert is_in_view(page.locator("#movie-problem"))
        assert page.input_value("#plot") == PLOT
        assert page.inner_text("#movie-submit") == "Predict genres"

        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        wait_for_evidence(page)
        assert page.locator("#movie-problem p").count() == 0


def busy(times, wait):
    """A route handler that answers the first requests with 503 and passes on the rest."""
    left = [times]

    def answer(route):
        left[0] -= 1
        if left[0] >= 0:
            route.fulfill(status=503, headers={"Retry-After": wait}, json={"error": "busy: 64 are waiting already"})
        else:
            route.continue_()

    return answer


def test_a_busy_service_is_retried_after_its_retry_after_and_the_page_says_so(browser, url):
    with visit(browser, url, may_fail=True) as page:
        page.route("**/predict", busy(1, wait="1"))
        page.fill("#plot", PLOT)
        page.click("#movie-submit")
        page.get_by_text("The service is busy; retrying in 1 s (1 of 4).").wait_for()
        wait_for_evidence(page)
        assert page.asked() == ["predict", "predict", "explain"]


def test_retries_end_after_five_attempts(browser, url):
    with visit(browser, url, may_fail=True) as page:
        page.route("**/predict", busy(99, wait="0.02"))
        page.fill("#plot", PLOT)
        page.click("#movie-submit")
        page.locator("#movie-problem p").wait_for()
        assert page.inner_text("#movie-problem p") == "busy: 64 are waiting already"
        assert page.asked() == ["predict"] * 5


def test_genres_stay_on_the_page_if_their_explanation_fails(browser, url):
    with visit(browser, url, may_fail=True) as page:
        page.route("**/explain", lambda route: route.fulfill(status=500, json={"error": "internal error"}))
        page.fill("#plot", PLOT)
        page.click("#movie-submit")
        page.locator("#reasons-problem p").wait_for()
        assert page.inner_text("#reasons-problem p") == "internal error"
        assert len(shown_genres(page)) == 3


def test_a_newer_request_replaces_an_older_one(browser, url, port):
    held = []
    with visit(browser, url, may_fail=True) as page:
        page.route("**/predict", lambda route: route.continue_() if held else held.append(route))
        page.fill("#plot", "A killer.")
        page.click("#movie-submit")
        page.get_by_text("Predicting genres").wait_for()
        predict(page, PLOT)
        assert shown_genres(page) == expected_genres(port, plot=PLOT)
        assert len(page.asked()) == 3


def test_markup_in_a_plot_is_shown_as_text_and_emoji_do_not_shift_the_marked_words(browser, url):
    plot = "🎬🎬 <script>alert('killer')</script> & <b>the detective</b> 🌧 hunts &amp; \"marries\" the moon"
    with visit(browser, url) as page:
        page.fill("#title", "<i>Rain</i> & snow")
        predict(page, plot)
        assert page.inner_text("#result-title") == "Genres of “<i>Rain</i> & snow”"
        assert plot in page.inner_text("#marked")
        assert page.locator("#marked b, #marked script").count() == 0
        for genre in page.locator("#genres button").all():
            genre.click()
            for word in page.locator("#marked mark").all_inner_texts():
                assert re.fullmatch(r"[\w<>/;&'()\".🎬🌧]+", word), word
                assert word in plot or word in "<i>Rain</i> & snow"


def test_missing_and_overlong_inputs_are_reported_next_to_the_field_without_a_request(browser, url):
    with visit(browser, url, **PHONE) as page:
        page.fill("#title", "A title alone")
        page.locator("#movie-submit").tap()
        problem = page.locator("#plot-problem")
        assert problem.inner_text() == "The model needs an input. Enter a plot or choose a poster."
        assert is_in_view(problem) and page.evaluate("document.activeElement.id") == "plot"

        page.fill("#plot", "🎬" * 20_001)
        page.fill("#title", "T" * 20_002)
        page.locator("#movie-submit").tap()
        assert problem.inner_text() == "The plot has 20,001 characters; the limit is 20,000. Shorten it."
        assert "20,002" in page.inner_text("#title-problem") and is_in_view(page.locator("#title-problem"))
        assert page.locator("[aria-invalid=true]").count() == 2
        assert page.asked() == []

        page.fill("#title", "")
        page.fill("#plot", PLOT)
        page.locator("#movie-submit").tap()
        assert len(shown_genres(page)) == 3
        assert page.locator("[aria-invalid=true]").count() == 0 and problem.is_hidden()


def test_an_error_message_of_the_service_is_shown_as_text(browser, url):
    poster = picture(size=(200, 300))
    with visit(browser, url, may_fail=True) as page:
        page.route(
            "**/predict", lambda route: route.fulfill(status=422, json={"error": "poster: <broken> & unreadable"})
        )
        page.set_input_files("#poster-file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": poster})
        page.locator("#poster-picture").wait_for()
        page.click("#movie-submit")
        page.locator("#movie-problem p").wait_for()
        assert page.inner_text("#movie-problem") == "poster: <broken> & unreadable"


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_table_is_tagged_and_can_be_downloaded(browser, url, port, delimiter):
    plots = ['A "clown", a killer; the rain.', "Two lines\r\nof a plot about the moon", ""]
    rows = [["note", "plot", "title"], *([f"é {i}", plot, "<b>T</b>"] for i, plot in enumerate(plots))]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    with visit(browser, url) as page:
        page.click("#table-tab")
        drop(page, "#table-drop", text.getvalue().encode(), "my movies.csv", "text/csv")
        page.get_by_text("my movies.csv: 3 rows, columns note, plot and title.").wait_for()
        page.click("#table-submit")
        page.locator("#tagged").wait_for()
        with page.expect_download() as download:
            page.click("#download")
        tagged = list(
            csv.reader(io.StringIO(download.value.path().read_bytes().decode(), newline=""), delimiter=delimiter)
        )
        shown = page.locator("#tagged-rows tbody tr").first.locator("td").all_inner_texts()

    assert download.value.suggested_filename == "my movies-tagged.csv"
    assert tagged[0] == [*rows[0], "genres", "status", *(f"p_{genre}" for genre in GENRES)]
    # A row without a plot is kept; its status says why it has no genres.
    assert [row[:3] for row in tagged] == rows
    answers = [Client(port).post("/predict", {"plot": plot or None, "title": title})[1] for _, plot, title in rows[1:]]
    assert [row[3] for row in tagged[1:]] == [
        "|".join(genre for genre in GENRES if genre in answer["genres"]) for answer in answers
    ]
    assert shown[:4] == [tagged[1][3].replace("|", ", "), *rows[1]]
    assert shown[5:] == [f"{float(value):.3f}" for value in tagged[1][5:]]


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ('"one, two, three";plot\n1;2\n', "1 row, columns one, two, three and plot."),
        ("id,plot\r1,A plot.\r2,Another.", "2 rows, columns id and plot."),
        ('id,plot\n1,A 5" disk\n', "1 row, columns id and plot."),
    ],
    ids=["commas in quotes", "carriage returns as line ends", "a quote inside a cell"],
)
def test_csv_variants_that_spreadsheets_write_are_read(browser, url, text, summary):
    with visit(browser, url) as page:
        page.click("#table-tab")
        page.set_input_files("#table-file", {"name": "a.csv", "mimeType": "text/csv", "buffer": text.encode()})
        page.get_by_text(f"a.csv: {summary}").wait_for()
        page.click("#table-submit")
        page.locator("#tagged").wait_for()
        assert page.locator("#tagged-rows tbody tr").count() == int(summary[0])


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"title,story\nOne,A story.\n", "no column plot"),
        (b"plot\n", "has no rows after its header"),
        (b"plot\n" + b"A plot.\n" * 1001, "has 1,001 rows; the limit is 1,000"),
        (b"plot\n" + b"A long plot. " * 400_000, "has 5.2 MB; the limit is 5 MB"),
    ],
    ids=["no plot column", "no rows", "too many rows", "too large"],
)
def test_an_invalid_table_gets_an_error(browser, url, tmp_path, content, expected_text):
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    with visit(browser, url, may_fail=True) as page:
        page.click("#table-tab")
        page.set_input_files("#table-file", file)
        page.locator("#table-chosen:not(:empty), #table-problem p").first.wait_for()
        page.click("#table-submit")
        page.locator("#table-problem p").wait_for()
        assert expected_text in page.inner_text("#table-problem")
        assert page.locator("#tagged").is_hidden()


def test_the_unread_end_of_a_long_plot_is_grey(browser, url):
    beginning, end = "A clown hunts a killer. " * 20, "An astronaut marries the moon. " * 20
    with visit(browser, url) as page:
        predict(page, beginning + end)
        assert end.strip() in page.inner_text("#marked .unread") and page.locator("#unread-note").is_visible()
        predict(page, "A clown hunts a killer.")
        assert page.locator("#marked .unread").count() == 0 and page.locator("#unread-note").is_hidden()


def test_right_to_left_languages_are_laid_out_right_to_left(browser, url):
    title, plot = "ليل المدينة", "محقق متعب يطارد قاتلا في المطر، ولا أحد يصدقه."
    with visit(browser, url) as page:
        page.fill("#title", title)
        predict(page, plot)
        directions = [
            page.evaluate("id => getComputedStyle(document.getElementById(id)).direction", name)
            for name in ("title", "plot", "marked", "result-title")
        ]
        assert directions == ["rtl", "rtl", "rtl", "ltr"]
        assert page.inner_text("#result-title bdi") == title


def test_a_very_long_title_is_cut_off(browser, url):
    with visit(browser, url, **PHONE) as page:
        page.fill("#title", "The uncommonly long title of a movie " * 20 + "W" * 300)
        page.fill("#plot", PLOT)
        page.locator("#movie-submit").tap()
        assert len(shown_genres(page)) == 3
        assert page.locator("#result-title").bounding_box()["height"] < 100


def test_without_javascript_the_page_shows_a_notice_and_no_controls(browser, url):
    with visit(browser, url, java_script_enabled=False) as page:
        notice = page.locator("noscript p")
        assert notice.is_visible() and notice.inner_text().startswith("This page needs JavaScript.")
        assert page.get_by_role("button").count() == page.get_by_role("textbox").count() == 0


def test_one_click_predicts_an_example_with_its_poster(browser, url):
    with visit(browser, url, color_scheme="dark", reduced_motion="reduce") as page:
        page.get_by_role("button", name=EXAMPLES[0].title).click()
        wait_for_evidence(page)
        assert page.input_value("#plot") == EXAMPLES[0].plot
        assert page.inner_text("#result-note") == "From the plot and the poster."


def test_a_stopped_service_is_reported_on_both_tabs(browser, model):
    table = {"name": "a.csv", "mimeType": "text/csv", "buffer": b"plot\nA clown.\n"}
    with contextlib.ExitStack() as service, contextlib.ExitStack() as visits:
        port = service.enter_context(service_in_process(*model)).connection.port
        page = visits.enter_context(visit(browser, f"http://127.0.0.1:{port}/", may_fail=True, **PHONE))
        service.close()
        page.locator(".example").first.tap()
        page.locator("#movie-problem p").wait_for()
        assert "The service is not responding." in page.inner_text("#movie-problem")
        assert is_in_view(page.locator("#movie-problem"))

        page.locator("#table-tab").tap()
        page.set_input_files("#table-file", table)
        page.get_by_text("1 row, columns plot.").wait_for()
        page.locator("#table-submit").tap()
        page.locator("#table-problem p").wait_for()
        assert "The service is not responding." in page.inner_text("#table-problem")


def draw_pictures(report, **environment):
    command = [sys.executable, "docs/pictures.py", report, "no-checkpoint"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_the_docs_script_for_screenshots_reports_missing_files_in_one_line(tmp_path):
    page = tmp_path / "report.html"
    missing = draw_pictures(page)
    page.touch()
    without_browser = draw_pictures(page, PATH=str(tmp_path))

    assert missing.stderr.startswith(f"error: {page}: no such file;")
    assert without_browser.stderr.startswith("error: no Chromium found: expected one of chromium, ")
    assert [(run.returncode, run.stderr.count("\n")) for run in (missing, without_browser)] == [(1, 1)] * 2


def trained(model):
    thresholds = Thresholds(per_genre=(0.25,) * len(GENRES), global_threshold=0.5, kind="per_genre")
    return Card(model=model, thresholds=thresholds)


@pytest.mark.parametrize(
    ("model_config", "inputs", "ignored", "evidence"),
    [
        (TfidfConfig(), "plot", ["title", "poster"], "the words"),
        (VggConfig(weights="none"), "poster", ["title", "plot"], "the regions"),
    ],
    ids=["plots", "posters"],
)
def test_the_page_says_which_inputs_the_model_reads_and_ignores(model_config, inputs, ignored, evidence):
    page = render_page(trained(model_config), ServingConfig(checkpoint=""))

    assert f"Enter a movie's {inputs} to see" in page.html
    assert f"with their thresholds and {evidence} that" in page.html
    hints = dict(re.findall(r'<p id="(\w+)-hint" class="hint">(.*?)</p>', page.html, re.DOTALL))
    assert [name for name in ("title", "plot", "poster") if "This model ignores it" in hints[name]] == ignored
    assert "unsafe" not in page.headers["Content-Security-Policy"]


def test_the_page_times_out_after_the_service_does():
    html = render_page(trained(TfidfConfig()), ServingConfig(checkpoint="", timeout_s=7)).html

    settings = json.loads(re.search('id="settings">(.*)</script>', html)[1])
    assert settings["timeout_s"] == {"predict": 14, "explain": 120, "tag": 600}


def test_the_thresholds_shown_are_those_in_use():
    card = trained(TfidfConfig())
    usual = render_page(card, ServingConfig(checkpoint="")).html
    other = render_page(card, ServingConfig(checkpoint="", thresholds=0.75, top_k=2)).html

    assert usual.count("<td>25.0 %</td>") == other.count("<td>75.0 %</td>") == len(GENRES)
    assert "at most the 2 most probable ones" in other and "at most the" not in usual


def palettes():
    """Colours by name, for the light and the dark theme."""
    html = render_page(trained(TfidfConfig()), ServingConfig(checkpoint="")).html
    blocks = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    return [dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in blocks[:2]]


def contrast(first, second):
    """WCAG 2 contrast ratio: 1 for equal colours, 21 for black and white."""
    return (max(luminance(first), luminance(second)) + 0.05) / (min(luminance(first), luminance(second)) + 0.05)


def luminance(colour):
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_every_text_colour_is_readable_on_every_background(palette):
    backgrounds = [palette[name] for name in ("page", "card", "soft")]
    texts = [palette[name] for name in ("ink", "quiet", "main", "accent", "good", "bad")]

    assert min(contrast(text, background) for text in texts for background in backgrounds) >= 4.5
    assert contrast(palette["on-main"], palette["main"]) >= 4.5
    assert min(contrast(palette[fill], palette["line"]) for fill in ("main", "quiet")) >= 3
