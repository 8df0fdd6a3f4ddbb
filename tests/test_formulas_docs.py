"""Every section of docs/formulas.md that code and tests cite is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_cited_sections_exist() -> None:
    page = (ROOT / "docs" / "formulas.md").read_text()
    headings = re.findall(r"^## §([\d.]+) ", page, re.M)
    assert headings == re.findall(r'^<a id="([\d.]+)"></a>$', page, re.M)
    cited: set[str] = set()
    for folder in ("raymtl", "tests", "jobs", "scripts"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            for sections in re.findall(r"formulas\.md (§[\d.]+\w?(?:(?:, | and )§[\d.]+\w?)*)", text):
                cited |= set(re.findall(r"§(\d+(?:\.\d+)?)", sections))
            assert "design/models.md" not in text or file == Path(__file__), file
    assert len(cited) > 10
    assert cited <= set(headings)
