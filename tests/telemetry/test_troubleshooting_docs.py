"""docs/troubleshooting.md quotes sentences that raymtl says, and links to places that there are."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("troubleshooting", "observability")
SAID = re.findall(r'"([^"|]+)"', (ROOT / "docs" / "troubleshooting.md").read_text())


@cache
def _source() -> str:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "raymtl").rglob("*.py")))
    text = re.sub(r'"\s*\n\s*(?:\+ )?f?"', "", text)  # a sentence over several lines
    return re.sub(r"\s+", " ", text.replace("`", ""))


@pytest.mark.parametrize("sentence", SAID)
def test_what_is_quoted_is_said(sentence: str) -> None:
    source = _source()
    assert [piece for piece in sentence.replace("`", "").split("…") if piece.strip() not in source] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / f"{page}.md").read_text()):
        file, _, anchor = target.partition("#")
        if file.endswith(".png"):
            assert (ROOT / "docs" / file).is_file()
            continue
        text = (ROOT / "docs" / (file or f"{page}.md")).read_text()
        heads = {
            re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", text, re.M)
        }
        assert not anchor or anchor in heads, target
