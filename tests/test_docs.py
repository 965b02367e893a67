"""What the pages name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))


def test_every_test_that_the_page_on_reliability_names_exists():
    page = (ROOT / "docs/reliability.md").read_text()
    named, file = [], ""
    for path, name in re.findall(r"`([\w/]*(?:\.py)?)::(test_\w+)", page):
        file = path or file
        named.append((file, name))

    assert len(named) > 30
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_of_this_repository_leads_there(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", (ROOT / page).read_text())

    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
