"""Every link of the documents leads to a file of the repository, and to a heading that is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    *REPOSITORY.glob("*.md"),
    *(path for folder in ("docs", "examples", "packaging") for path in (REPOSITORY / folder).rglob("*.md")),
]
LINK = re.compile(r"\]\((?P<place>[^)#\s]*)(?:#(?P<heading>[^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """Return what the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.finditer(page.read_text()):
        if "://" in link["place"]:
            continue
        place = page.parent / link["place"] if link["place"] else page
        assert place.exists(), link[0]
        assert not link["heading"] or link["heading"] in anchors(place), link[0]
