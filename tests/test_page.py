"""The page in a real browser, before the real service: what a person does, and what it says when that goes wrong."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from browser import drop, launched, visit
from PIL import Image
from serving import ROOT, Client, in_base64, picture, save_fusion, served

from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.vgg import VggConfig
from mmgenre.scoring.thresholds import Thresholds
from mmgenre.serving.config import ServiceConfig
from mmgenre.serving.examples import EXAMPLES
from mmgenre.serving.page import page as page_of

PLOT = "Two sisters hunt a killer in the rain, and nobody listens.\n\nAn astronaut marries a clown on the moon."
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
# What people press with a finger: visible, and less than 44 px high or wide.
TOO_SMALL = """() => [...document.querySelectorAll("button, .button, input:not([type=file]), textarea, summary")]
    .filter(one => one.checkVisibility())
    .map(one => [one.id || one.textContent, one.getBoundingClientRect()])
    .filter(([, box]) => box.height < 44 || box.width < 44).map(([name]) => name)"""


def blank(width, height):
    content = io.BytesIO()
    Image.new("1", (width, height)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    with served(save_fusion(tmp_path_factory.mktemp("served") / "fusion")) as process:
        yield process


@pytest.fixture(scope="module")
def port(server):
    return server.port


@pytest.fixture(scope="module")
def url(port):
    return f"http://127.0.0.1:{port}/"


def shown_genres(page):
    """Name and percentage of the three genres, as they stand there."""
    rows = page.locator("#genres button")
    rows.first.wait_for()
    return list(zip(rows.locator(".name").all_inner_texts(), rows.locator(".number").all_inner_texts(), strict=True))


def expected_genres(port, **movie):
    """The same from the API."""
    found = Client(port).post("/predict", movie)[1]["probabilities"]
    found.sort(key=lambda one: -one["probability"])
    return [(one["genre"], f"{100 * one['probability']:.1f} %") for one in found[:3]]


def wait_for_reasons(page):
    page.locator("#reasons").wait_for()


def label(page, plot=PLOT):
    page.fill("#plot", plot)
    page.click("#movie-submit")
    wait_for_reasons(page)


def is_in_view(element):
    return element.evaluate(
        "one => { const box = one.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight; }"
    )


def is_too_wide(page):
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def test_a_pasted_plot_and_a_dropped_poster_give_three_genres_and_what_spoke_for_each(browser, url, port):
    poster = picture(3, size=(60, 90))
    with visit(browser, url, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.evaluate("text => navigator.clipboard.writeText(text)", PLOT)
        page.focus("#plot")
        page.keyboard.press("Control+V")
        drop(page, "#poster-drop", poster, "poster.jpg", "image/jpeg")
        page.locator("#poster-picture").wait_for()
        page.click("#movie-submit")

        assert shown_genres(page) == expected_genres(port, plot=PLOT, poster=in_base64(poster))
        wait_for_reasons(page)
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
        assert [one.get_attribute("aria-pressed") for one in page.locator("#genres button").all()] == [
            "false",
            "true",
            "false",
        ]


def test_each_genre_says_in_words_whether_it_reaches_its_threshold(browser, url, port):
    with visit(browser, url) as page:
        label(page)
        page.click("#others summary")
        said = page.locator("#result .verdict").all_inner_texts()
        answer = Client(port).post("/predict", {"plot": PLOT})[1]

    ranked = sorted(answer["probabilities"], key=lambda one: -one["probability"])
    assert len(said) == len(GENRES)
    for words, genre in zip(said, ranked, strict=True):
        start = "given: reaches its threshold of" if genre["given"] else "not given: below its threshold of"
        assert words == f"{start} {100 * genre['threshold']:.1f} %"


def test_the_keyboard_alone_does_everything_in_the_order_of_the_page(browser, url):
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
        wait_for_reasons(page)
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


def test_a_phone_needs_no_sideways_scrolling_and_no_small_fingers(browser, url):
    long_name = "an-uncommonly-long-name-of-a-file-without-any-spaces-in-it-whatsoever.csv"
    table = {"name": long_name, "mimeType": "text/csv", "buffer": f"title,plot\nOne,{'longword' * 80}\n".encode()}
    with visit(browser, url, **PHONE) as page:
        assert not is_too_wide(page) and page.evaluate(TOO_SMALL) == []
        page.locator(".example").first.tap()
        wait_for_reasons(page)
        page.fill("#title", "W" * 200)
        page.locator("#movie-submit").tap()
        wait_for_reasons(page)
        assert not is_too_wide(page) and page.evaluate(TOO_SMALL) == []
        page.locator("#table-tab").tap()
        page.set_input_files("#table-file", table)
        page.locator("#table-submit").tap()
        page.locator("#tagged").wait_for()
        assert not is_too_wide(page) and page.evaluate(TOO_SMALL) == []


def test_a_picture_of_50_mb_is_refused_at_once_and_the_poster_before_it_stays(browser, url, tmp_path):
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.write(picture(kind="PNG"))
        file.truncate(50_000_000)
    with visit(browser, url) as page:
        page.set_input_files("#poster-file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": picture()})
        page.locator("#poster-picture").wait_for()
        page.set_input_files("#poster-file", huge)
        page.locator("#poster-problem:not(:empty)").wait_for()

        assert page.inner_text("#poster-problem") == (
            "huge.png has 50 MB; at most 5 MB are taken. Choose a smaller picture."
        )
        assert page.inner_text("#poster-name").startswith("a.jpg")
        assert page.asked() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%PDF-1.7 a document", "is no picture that is read here"),
        (picture(kind="PNG")[:40], "is damaged"),
        (blank(5100, 5000), "5000 pixels; at most 25 million are taken"),
    ],
    ids=["a document", "a torn picture", "too many pixels"],
)
def test_a_file_that_is_no_poster_is_refused_before_it_is_sent(browser, url, content, said):
    with visit(browser, url) as page:
        drop(page, "body", content, "poster.png", "image/png")
        page.locator("#poster-problem:not(:empty)").wait_for()

        assert said in page.inner_text("#poster-problem")
        assert page.locator("#poster-picture").is_hidden() and page.asked() == []


def paste_picture(page, text=""):
    """Paste a picture into the plot, as from a program that puts the same as text beside it or does not."""
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


def test_a_poster_can_be_pasted_and_taken_away_again(browser, url):
    with visit(browser, url) as page:
        paste_picture(page)
        page.locator("#poster-picture").wait_for()
        page.click("#poster-remove")

        assert page.locator("#poster-picture").is_hidden()
        assert page.evaluate("document.activeElement.id") == "poster-file"


def test_a_plot_is_pasted_as_text_though_a_picture_of_it_comes_with_it(browser, url):
    with visit(browser, url) as page:
        paste_picture(page, text=PLOT)
        drop(page, "body", b"no picture", "later.txt", "text/plain")
        page.locator("#poster-problem:not(:empty)").wait_for()

        assert page.locator("#poster-picture").is_hidden()


def test_a_service_that_is_gone_is_said_and_nothing_is_lost(browser, url):
    with visit(browser, url, may_fail=True, **PHONE) as page:
        page.fill("#plot", PLOT)
        page.context.set_offline(True)
        page.click("#movie-submit")
        page.locator("#movie-problem p").wait_for()
        assert "The service does not answer." in page.inner_text("#movie-problem")
        assert is_in_view(page.locator("#movie-problem"))
        assert page.input_value("#plot") == PLOT
        assert page.inner_text("#movie-submit") == "Label it"

        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        wait_for_reasons(page)
        assert page.locator("#movie-problem p").count() == 0


def busy(times, wait):
    """A handler that says 503 some times, and lets others through."""
    left = [times]

    def answer(route):
        left[0] -= 1
        if left[0] >= 0:
            route.fulfill(status=503, headers={"Retry-After": wait}, json={"error": "busy: 64 are waiting already"})
        else:
            route.continue_()

    return answer


def test_a_busy_service_is_asked_again_when_it_says_and_so_it_is_said(browser, url):
    with visit(browser, url, may_fail=True) as page:
        page.route("**/predict", busy(1, wait="1"))
        page.fill("#plot", PLOT)
        page.click("#movie-submit")
        page.get_by_text("The service is busy; trying again in 1 s (1 of 4).").wait_for()
        wait_for_reasons(page)
        assert page.asked() == ["predict", "predict", "explain"]


def test_a_service_that_stays_busy_is_left_alone_after_a_while(browser, url):
    with visit(browser, url, may_fail=True) as page:
        page.route("**/predict", busy(99, wait="0.02"))
        page.fill("#plot", PLOT)
        page.click("#movie-submit")
        page.locator("#movie-problem p").wait_for()
        assert page.inner_text("#movie-problem p") == "busy: 64 are waiting already"
        assert page.asked() == ["predict"] * 5


def test_genres_stand_when_their_reasons_cannot_be_had(browser, url):
    with visit(browser, url, may_fail=True) as page:
        page.route("**/explain", lambda route: route.fulfill(status=500, json={"error": "an error of our own"}))
        page.fill("#plot", PLOT)
        page.click("#movie-submit")
        page.locator("#reasons-problem p").wait_for()
        assert page.inner_text("#reasons-problem p") == "an error of our own"
        assert len(shown_genres(page)) == 3


def test_what_was_asked_last_is_what_is_shown(browser, url, port):
    held = []
    with visit(browser, url, may_fail=True) as page:
        page.route("**/predict", lambda route: route.continue_() if held else held.append(route))
        page.fill("#plot", "A killer.")
        page.click("#movie-submit")
        page.get_by_text("Reading the movie").wait_for()
        label(page, PLOT)
        assert shown_genres(page) == expected_genres(port, plot=PLOT)
        assert len(page.asked()) == 3


def test_markup_in_a_plot_is_text_and_words_are_found_behind_characters_of_two_units(browser, url):
    plot = "🎬🎬 <script>alert('killer')</script> & <b>the detective</b> 🌧 hunts &amp; \"marries\" the moon"
    with visit(browser, url) as page:
        page.fill("#title", "<i>Rain</i> & snow")
        label(page, plot)
        assert page.inner_text("#result-title") == "Genres of “<i>Rain</i> & snow”"
        assert plot in page.inner_text("#marked")
        assert page.locator("#marked b, #marked script").count() == 0
        for genre in page.locator("#genres button").all():
            genre.click()
            for word in page.locator("#marked mark").all_inner_texts():
                assert re.fullmatch(r"[\w<>/;&'()\".🎬🌧]+", word), word
                assert word in plot or word in "<i>Rain</i> & snow"


def test_too_little_and_too_much_are_said_beside_the_field_without_asking_the_service(browser, url):
    with visit(browser, url, **PHONE) as page:
        page.fill("#title", "A title alone")
        page.locator("#movie-submit").tap()
        problem = page.locator("#plot-problem")
        assert problem.inner_text() == "There is nothing to read yet. Paste a plot, or choose a poster."
        assert is_in_view(problem) and page.evaluate("document.activeElement.id") == "plot"

        page.fill("#plot", "🎬" * 20_001)
        page.fill("#title", "T" * 20_002)
        page.locator("#movie-submit").tap()
        assert problem.inner_text() == "The plot has 20,001 characters; at most 20,000 are taken. Shorten it."
        assert "20,002" in page.inner_text("#title-problem") and is_in_view(page.locator("#title-problem"))
        assert page.locator("[aria-invalid=true]").count() == 2
        assert page.asked() == []

        page.fill("#title", "")
        page.fill("#plot", PLOT)
        page.locator("#movie-submit").tap()
        assert len(shown_genres(page)) == 3
        assert page.locator("[aria-invalid=true]").count() == 0 and problem.is_hidden()


def test_what_the_service_finds_wrong_is_shown_in_its_own_words(browser, url):
    poster = picture(size=(200, 300))
    with visit(browser, url, may_fail=True) as page:
        page.route("**/predict", lambda route: route.fulfill(status=422, json={"error": "poster: <torn> & unreadable"}))
        page.set_input_files("#poster-file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": poster})
        page.locator("#poster-picture").wait_for()
        page.click("#movie-submit")
        page.locator("#movie-problem p").wait_for()
        assert page.inner_text("#movie-problem") == "poster: <torn> & unreadable"


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_table_comes_back_tagged(browser, url, port, delimiter):
    plots = ['A "clown", a killer; the rain.', "Two lines\r\nof a plot about the moon", ""]
    rows = [["note", "plot", "title"], *([f"é {i}", plot, "<b>T</b>"] for i, plot in enumerate(plots))]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    with visit(browser, url) as page:
        page.click("#table-tab")
        drop(page, "#table-drop", text.getvalue().encode(), "my movies.csv", "text/csv")
        page.get_by_text("my movies.csv: 3 rows with note, plot and title.").wait_for()
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
    # A row without a plot stays: its status says what it lacks.
    assert [row[:3] for row in tagged] == rows
    answers = [Client(port).post("/predict", {"plot": plot or None, "title": title})[1] for _, plot, title in rows[1:]]
    assert [row[3] for row in tagged[1:]] == ["|".join(g for g in GENRES if g in one["genres"]) for one in answers]
    assert shown[:4] == [tagged[1][3].replace("|", ", "), *rows[1]]
    assert shown[5:] == [f"{float(value):.3f}" for value in tagged[1][5:]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"one, two, three";plot\n1;2\n', "1 row with one, two, three and plot."),
        ("id,plot\r1,A plot.\r2,Another.", "2 rows with id and plot."),
        ('id,plot\n1,A 5" disk\n', "1 row with id and plot."),
    ],
    ids=["commas in quotes", "a carriage return ends a line", "a quote within a cell"],
)
def test_a_table_is_read_as_spreadsheets_write_it(browser, url, text, said):
    with visit(browser, url) as page:
        page.click("#table-tab")
        page.set_input_files("#table-file", {"name": "a.csv", "mimeType": "text/csv", "buffer": text.encode()})
        page.get_by_text(f"a.csv: {said}").wait_for()
        page.click("#table-submit")
        page.locator("#tagged").wait_for()
        assert page.locator("#tagged-rows tbody tr").count() == int(said[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"title,story\nOne,A story.\n", "no column plot"),
        (b"plot\n", "has no rows below its header"),
        (b"plot\n" + b"A plot.\n" * 1001, "has 1,001 rows; at most 1,000 are taken"),
        (b"plot\n" + b"A long plot. " * 400_000, "has 5.2 MB; at most 5 MB are taken"),
    ],
    ids=["without plots", "empty", "many rows", "large"],
)
def test_a_table_that_cannot_be_tagged_is_refused_in_words(browser, url, content, said):
    with visit(browser, url, may_fail=True) as page:
        page.click("#table-tab")
        page.set_input_files("#table-file", {"name": "a.csv", "mimeType": "text/csv", "buffer": content})
        page.locator("#table-chosen:not(:empty), #table-problem p").first.wait_for()
        page.click("#table-submit")
        page.locator("#table-problem p").wait_for()
        assert said in page.inner_text("#table-problem")
        assert page.locator("#tagged").is_hidden()


def test_what_a_model_did_not_read_of_a_long_plot_is_grey(browser, url):
    beginning, end = "A clown hunts a killer. " * 20, "An astronaut marries the moon. " * 20
    with visit(browser, url) as page:
        label(page, beginning + end)
        assert end.strip() in page.inner_text("#marked .unread") and page.locator("#unread-note").is_visible()
        label(page, "A clown hunts a killer.")
        assert page.locator("#marked .unread").count() == 0 and page.locator("#unread-note").is_hidden()


def test_a_movie_in_a_language_that_runs_to_the_left_runs_to_the_left(browser, url):
    title, plot = "ليل المدينة", "محقق متعب يطارد قاتلا في المطر، ولا أحد يصدقه."
    with visit(browser, url) as page:
        page.fill("#title", title)
        label(page, plot)
        directions = [
            page.evaluate("id => getComputedStyle(document.getElementById(id)).direction", name)
            for name in ("title", "plot", "marked", "result-title")
        ]
        assert directions == ["rtl", "rtl", "rtl", "ltr"]
        assert page.inner_text("#result-title bdi") == title


def test_a_very_long_title_leaves_room_for_the_genres(browser, url):
    with visit(browser, url, **PHONE) as page:
        page.fill("#title", "The uncommonly long title of a movie " * 20 + "W" * 300)
        page.fill("#plot", PLOT)
        page.locator("#movie-submit").tap()
        assert len(shown_genres(page)) == 3
        assert page.locator("#result-title").bounding_box()["height"] < 100


def test_without_javascript_the_page_says_so_and_shows_nothing_that_would_not_work(browser, url):
    with visit(browser, url, java_script_enabled=False) as page:
        notice = page.locator("noscript p")
        assert notice.is_visible() and notice.inner_text().startswith("This page needs JavaScript.")
        assert page.get_by_role("button").count() == page.get_by_role("textbox").count() == 0


def test_an_example_is_labelled_by_one_press_with_a_poster(browser, url):
    with visit(browser, url, color_scheme="dark", reduced_motion="reduce") as page:
        page.get_by_role("button", name=EXAMPLES[0].title).click()
        wait_for_reasons(page)
        assert page.input_value("#plot") == EXAMPLES[0].plot
        assert page.inner_text("#result-note") == "From the plot and the poster."


# Stops the server: tests that need it stand above.
def test_a_service_that_was_stopped_is_said_wherever_one_stands(browser, server, url):
    table = {"name": "a.csv", "mimeType": "text/csv", "buffer": b"plot\nA clown.\n"}
    with visit(browser, url, may_fail=True, **PHONE) as page:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
        page.locator(".example").first.tap()
        page.locator("#movie-problem p").wait_for()
        assert "The service does not answer." in page.inner_text("#movie-problem")
        assert is_in_view(page.locator("#movie-problem"))

        page.locator("#table-tab").tap()
        page.set_input_files("#table-file", table)
        page.get_by_text("1 row with plot.").wait_for()
        page.locator("#table-submit").tap()
        page.locator("#table-problem p").wait_for()
        assert "The service does not answer." in page.inner_text("#table-problem")


def draw_pictures(report, **environment):
    command = [sys.executable, "docs/pictures.py", report, "no-checkpoint"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_pictures_that_cannot_be_made_say_why_in_a_line(tmp_path):
    page = tmp_path / "report.html"
    missing = draw_pictures(page)
    page.touch()
    without_browser = draw_pictures(page, PATH=str(tmp_path))

    assert missing.stderr.startswith(f"error: {page}: no such file;")
    assert without_browser.stderr.startswith("error: no Chromium: none of chromium, ")
    assert [(one.returncode, one.stderr.count("\n")) for one in (missing, without_browser)] == [(1, 1)] * 2


def trained(model):
    thresholds = Thresholds(per_genre=(0.25,) * len(GENRES), global_threshold=0.5, kind="per_genre")
    return Card(model=model, thresholds=thresholds)


@pytest.mark.parametrize(
    ("model", "asked", "ignored", "reasons"),
    [
        (TfidfConfig(), "plot", ["title", "poster"], "the words"),
        (VggConfig(weights="none"), "poster", ["title", "plot"], "the regions"),
    ],
    ids=["plots", "posters"],
)
def test_what_a_model_does_not_read_is_not_asked_for_and_said_to_be_ignored(model, asked, ignored, reasons):
    found = page_of(trained(model), ServiceConfig(checkpoint=""))

    assert f"Give a movie's {asked}, and see" in found.html and f"with them {reasons} that spoke" in found.html
    hints = dict(re.findall(r'<p id="(\w+)-hint" class="hint">(.*?)</p>', found.html, re.DOTALL))
    assert [name for name in ("title", "plot", "poster") if "does not read" in hints[name]] == ignored
    assert "unsafe" not in found.headers["Content-Security-Policy"]


def test_the_page_waits_longer_than_the_service_allows_itself():
    html = page_of(trained(TfidfConfig()), ServiceConfig(checkpoint="", timeout_s=7)).html

    settings = json.loads(re.search('id="settings">(.*)</script>', html)[1])
    assert settings["patience_s"] == {"predict": 14, "explain": 120, "tag": 600}


def test_the_thresholds_shown_are_those_that_decide():
    card = trained(TfidfConfig())
    usual = page_of(card, ServiceConfig(checkpoint="")).html
    other = page_of(card, ServiceConfig(checkpoint="", thresholds=0.75, top_k=2)).html

    assert usual.count("<td>25.0 %</td>") == other.count("<td>75.0 %</td>") == len(GENRES)
    assert "at most 2 of them" in other and "at most 2 of them" not in usual


def palettes():
    """The colours by name, in light and in dark."""
    html = page_of(trained(TfidfConfig()), ServiceConfig(checkpoint="")).html
    blocks = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    return [dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in blocks[:2]]


def contrast(one, other):
    """As WCAG 2 defines it: 1 for the same colour, 21 for black and white."""
    return (max(luminance(one), luminance(other)) + 0.05) / (min(luminance(one), luminance(other)) + 0.05)


def luminance(colour):
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_every_colour_of_text_can_be_read_on_every_ground(palette):
    grounds = [palette[name] for name in ("page", "card", "soft")]
    texts = [palette[name] for name in ("ink", "quiet", "main", "accent", "good", "bad")]

    assert min(contrast(text, ground) for text in texts for ground in grounds) >= 4.5
    assert contrast(palette["on-main"], palette["main"]) >= 4.5
    assert min(contrast(palette[fill], palette["line"]) for fill in ("main", "quiet")) >= 3
