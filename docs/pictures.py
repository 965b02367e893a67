"""Take the README's pictures: of a report, and of the web page of the service.

make demo
python docs/pictures.py runs/demo/report/report.html runs/demo/tiny/checkpoint

Use generated movies only: plots and posters of real movies may not be published.
"""

import argparse
import importlib.util
import io
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
EXAMPLE = "Honest Work"
DESK = {"viewport": {"width": 1180, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
MARGIN = 16


def main() -> None:
    """Read the command line and write the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path, help="HTML page written by jobs/report.py")
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder written by jobs/train.py")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "pictures", help="output folder")
    args = parser.parse_args()
    if not args.report.is_file():
        sys.exit(f"error: {args.report}: no such file; expected a page written by jobs/report.py")
    args.output.mkdir(parents=True, exist_ok=True)
    with launch_browser() as browser:
        save(report(browser, args.report), args.output / "report.png")
        with served(args.checkpoint) as url:
            page = label_example(browser, url, DESK)
            save(between(page, MARGIN, top_of(page.locator(".about"))), args.output / "page.png")
            page = label_example(browser, url, PHONE)
            page.locator("#result").evaluate("result => result.scrollIntoView()")
            save(page.screenshot(), args.output / "page_phone.png")


@contextmanager
def launch_browser() -> Iterator[Any]:
    """A headless Chromium."""
    executable = next((found for found in map(shutil.which, CHROMIUM) if found), None)
    if executable is None:
        sys.exit(f"error: no Chromium found: expected one of {', '.join(CHROMIUM)} on the PATH; install one")
    if importlib.util.find_spec("playwright") is None:
        sys.exit("error: Playwright is not installed; run pip install playwright")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - may be missing

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@contextmanager
def served(checkpoint: Path) -> Iterator[str]:
    """Serve a model with jobs/serve.py while the block runs; yield its URL."""
    job = ["jobs/serve.py", "configs/serve/default.yaml", f"checkpoint={checkpoint.resolve()}", "port=0"]
    with subprocess.Popen([sys.executable, *job], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            found = re.search(r" at (http://\S+)", process.stdout.readline() if process.stdout else "")
            # The job has printed the error.
            yield found[1] if found else sys.exit(1)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def report(browser: Any, path: Path) -> bytes:
    """Screenshot of the scores per genre."""
    page = browser.new_page(**DESK)
    page.goto(path.resolve().as_uri())
    start, end = page.locator("#by-genre"), page.locator("h2[id^=model-]")
    if not (start.count() and end.count()):
        sys.exit(f"error: {path}: has no scores; write a report with models.NAME.predictions=DIR")
    return between(page, top_of(start), top_of(end) - MARGIN)


def label_example(browser: Any, url: str, options: dict[str, Any]) -> Any:
    """The page after it has labelled one of its example movies."""
    page = browser.new_context(**options).new_page()
    page.goto(url)
    page.get_by_role("button", name=EXAMPLE).click()
    page.locator("#reasons").wait_for()
    page.mouse.move(0, 0)
    return page


def top_of(element: Any) -> float:
    """Distance of an element from the top of the page, in px."""
    return element.first.evaluate("element => element.getBoundingClientRect().top + scrollY")


def between(page: Any, top: float, bottom: float) -> bytes:
    """Screenshot of the page between two heights, with a margin above."""
    area = {"x": 0, "y": top - MARGIN, "width": page.viewport_size["width"], "height": bottom - top}
    return page.screenshot(clip=area, full_page=True)


def save(picture: bytes, path: Path) -> None:
    """Write a picture with at most 256 colours, which takes a quarter of the bytes."""
    reduced = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    reduced.save(path, optimize=True)
    print(f"{path}: {reduced.width} x {reduced.height} px, {path.stat().st_size / 1e3:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()
