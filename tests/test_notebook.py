"""docs/notebook.md shows what its cells print: they run on files in the format of Census-Income, and print such lines."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.data.convert.test_census import write

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "notebook.py"


@pytest.fixture(scope="module")
def notebook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_the_cells_run_and_print_what_the_page_shows(
    ray_cluster: None, notebook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, whose Ray runs already."""
    logs, folder = tmp_path / "census", tmp_path / "empty"
    for place in (logs, folder):
        place.mkdir()
    write(logs, rows=600)
    monkeypatch.setenv("CENSUS", str(logs))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    page = notebook.PAGE.read_text()
    assert notebook.shape(notebook.executed(page, str(folder))) == notebook.shape(page)


def test_the_script_compares_the_page_or_writes_it(
    notebook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('one')\n```\n\n```text\nother\n```\n")
    monkeypatch.setattr(notebook, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    with pytest.raises(SystemExit, match="does not show what its cells print"):
        notebook.main()
    monkeypatch.setattr(sys, "argv", ["notebook.py", "--write"])
    notebook.main()
    assert page.read_text() == "```python\nprint('one')\n```\n\n```text\none\n```\n"
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    notebook.main()


def test_every_cell_has_its_output_on_the_page(notebook: ModuleType) -> None:
    shapes = notebook.shape(notebook.PAGE.read_text())
    assert len(shapes) >= 7
    silent = [code for code, words in shapes if not words]
    assert all("import" in code or "rm " in code for code in silent)


def test_numbers_do_not_count_and_words_do(notebook: ModuleType) -> None:
    page = "```python\nx\n```\n\n```text\n{}\n```\n"
    printed = ("click: 0.7\nbuy: 0.8", "click: 0.61\nbuy: 1", "click: 0.7")
    before, after, other = (notebook.shape(page.format(text)) for text in printed)
    assert before == after
    assert before != other


def test_outputs_stand_below_their_cells(notebook: ModuleType, tmp_path: Path) -> None:
    page = "a\n\n```python\nx = 1\n```\n\n```python\nprint(x + 1)\n```\n\n```text\nold\n```\n\n```bash\npwd\n```\n"
    made = notebook.executed(page, str(tmp_path))
    assert "```python\nx = 1\n```\n\n```python\nprint(x + 1)\n```\n\n```text\n2\n```\n" in made
    assert notebook.executed(made, str(tmp_path)) == made
    with pytest.raises(SystemExit, match="the cell failed with 3"):
        notebook.executed("```bash\nexit 3\n```\n", str(tmp_path))
