"""Make the README's pictures: of a report, and of the page on which people try a model.

make demo
python docs/pictures.py runs/demo/report/report.html runs/demo/tiny/checkpoint

They show what those two hold: give none of real movies, whose plots and posters are not ours to publish.
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
    """Read the command line, and write the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path, help="page made by jobs/report.py, of one file or a site")
    parser.add_argument("checkpoint", type=Path, help="folder made by jobs/train.py")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "pictures", help="folder of the pictures")
    given = parser.parse_args()
    if not given.report.is_file():
        sys.exit(f"error: {given.report}: no such file; expected the page that jobs/report.py names at its end")
    given.output.mkdir(parents=True, exist_ok=True)
    with opened() as browser:
        keep(report(browser, given.report), given.output / "report.png")
        with served(given.checkpoint) as url:
            page = labelled(browser, url, DESK)
            keep(between(page, MARGIN, top_of(page.locator(".about"))), given.output / "page.png")
            page = labelled(browser, url, PHONE)
            page.locator("#result").evaluate("result => result.scrollIntoView()")
            keep(page.screenshot(), given.output / "page_phone.png")


@contextmanager
def opened() -> Iterator[Any]:
    """A Chromium without a window."""
    executable = next((found for found in map(shutil.which, CHROMIUM) if found), None)
    if executable is None:
        sys.exit(f"error: no Chromium: none of {', '.join(CHROMIUM)} is on the PATH; install one")
    if importlib.util.find_spec("playwright") is None:
        sys.exit("error: no Playwright; pip install playwright")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - may be missing

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@contextmanager
def served(checkpoint: Path) -> Iterator[str]:
    """Address at which a model is served by jobs/serve.py for as long as the block runs."""
    job = ["jobs/serve.py", "configs/serve/default.yaml", f"checkpoint={checkpoint.resolve()}", "port=0"]
    with subprocess.Popen([sys.executable, *job], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            found = re.search(r" at (http://\S+)", process.stdout.readline() if process.stdout else "")
            # The job itself says what is wrong.
            yield found[1] if found else sys.exit(1)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def report(browser: Any, path: Path) -> bytes:
    """How well a report's models find each genre."""
    page = browser.new_page(**DESK)
    page.goto(path.resolve().as_uri())
    first, behind = page.locator("#by-genre"), page.locator("h2[id^=model-]")
    if not (first.count() and behind.count()):
        sys.exit(f"error: {path}: shows no scores; make a report with models.NAME.predictions=DIR")
    return between(page, top_of(first), top_of(behind) - MARGIN)


def labelled(browser: Any, url: str, options: dict[str, Any]) -> Any:
    """The page once it has labelled one of its invented movies."""
    page = browser.new_context(**options).new_page()
    page.goto(url)
    page.get_by_role("button", name=EXAMPLE).click()
    page.locator("#reasons").wait_for()
    page.mouse.move(0, 0)
    return page


def top_of(element: Any) -> float:
    """How far below the beginning of the page it stands, px."""
    return element.first.evaluate("one => one.getBoundingClientRect().top + scrollY")


def between(page: Any, top: float, bottom: float) -> bytes:
    """What stands between two heights, with a margin above."""
    area = {"x": 0, "y": top - MARGIN, "width": page.viewport_size["width"], "height": bottom - top}
    return page.screenshot(clip=area, full_page=True)


def keep(picture: bytes, path: Path) -> None:
    """Write a picture with at most 256 colours, a quarter of its size."""
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    few.save(path, optimize=True)
    print(f"{path}: {few.width} x {few.height} px, {path.stat().st_size / 1e3:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()
