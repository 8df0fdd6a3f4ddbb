"""The configurations on the first pages, README.md and docs/index.md, are valid."""

import re
from pathlib import Path

import pytest

from raymtl.config.load import load_config

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_configuration_is_valid(page: str) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.S)
    config = load_config(None, text=text)
    assert list(config.tasks) == ["click", "buy"]
    assert config.model.preset == "mmoe"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        assert "://" in target or (ROOT / target).exists(), target
