"""Headless Chromium, for the tests of the page."""

import contextlib
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# It runs in containers, where it is root and has no GPU; and it asks its maker for nothing.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What Chromium says of an answer with a status that is an error, or of none; the page is what must say it to people.
FAILED = "Failed to load resource"


def chromium():
    """Where it is; None: nowhere."""
    given = os.environ.get("MMGENRE_CHROMIUM")
    return given or next((found for found in map(shutil.which, NAMES) if found), None)


@contextlib.contextmanager
def launched():
    """A Chromium without a window; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    executable = chromium()
    if executable is None:
        pytest.skip(f"needs Chromium: none of {', '.join(NAMES)} is there; set MMGENRE_CHROMIUM to one")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def visit(browser, url, *, may_fail=False, **options):
    """A page, opened; when it is left, it must have asked for nothing elsewhere and complained of nothing.

    Args:
        browser: from launched.
        url: of the service.
        may_fail: whether requests are made to fail on purpose.
        options: of the context: viewport, color_scheme, ...
    """
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(15_000)
    # A report holds a hundred figures, which take long to load on a busy machine.
    page.set_default_navigation_timeout(60_000)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else 0)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    page.goto(url)
    opened = len(requests)
    # Paths that the page has asked the service for since it was opened.
    page.asked = lambda: [asked.removeprefix(url) for asked in requests[opened:] if asked.startswith(url)]
    yield page
    context.close()
    assert [asked for asked in requests if not asked.startswith((url, "data:", "blob:"))] == []
    assert [said for said in complaints if not (may_fail and said.startswith(FAILED))] == []


def drop(page, target, content, name, kind):
    """Drag a file onto an element, and let go."""
    data = page.evaluate_handle(
        """([bytes, name, type]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, { type }));
            return data;
        }""",
        [list(content), name, kind],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(target, event, {"dataTransfer": data})
