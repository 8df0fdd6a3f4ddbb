"""The wheel holds the files of the package that are in git, and works without a checkout."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from raymtl import __version__
from tests.helpers.fake_run import write_run
from tests.helpers.terminal import clean_environment

ROOT = Path(__file__).parents[1]
NOTES = f"raymtl-{__version__}.dist-info/"
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what belongs into the wheel is read from git"),
]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def unpacked(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a wheel, built without the network from a checkout with scratch files in it."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for name in ("raymtl/old.parquet", "raymtl/reports/templates/page.html.j2~", "raymtl_old/__init__.py", "demo/x.py"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "-w", str(place), str(source)], check=True)
    (wheel,) = place.glob("raymtl-*.whl")
    assert wheel.name == f"raymtl-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "unpacked")
    shutil.rmtree(source)
    return place / "unpacked"


@pytest.fixture
def metadata(unpacked: Path) -> Message:
    return message_from_string((unpacked / NOTES / "METADATA").read_text())


def test_it_holds_what_is_in_git(unpacked: Path, tracked: list[str]) -> None:
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    package = {name for name in tracked if name.startswith("raymtl/")}
    assert {name for name in found if not name.startswith(NOTES)} == package
    assert f"{NOTES}licenses/LICENSE" in found


def test_it_asks_for_what_the_project_needs(metadata: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [each for each in metadata.get_all("Requires-Dist") if "extra ==" not in each]
    assert sorted(_name(each) for each in needed) == sorted(_name(each) for each in project["dependencies"])
    assert metadata["Requires-Python"] == project["requires-python"]
    assert (ROOT / "README.md").read_text().splitlines()[0] in metadata.get_payload()


def test_commands_run_from_it(unpacked: Path, tmp_path: Path) -> None:
    assert "raymtl = raymtl.__main__:main" in (unpacked / NOTES / "entry_points.txt").read_text()
    assert _run(unpacked, tmp_path, "-c", "import raymtl; print(raymtl.__file__)") == f"{unpacked}/raymtl/__init__.py\n"
    assert _run(unpacked, tmp_path, "-m", "raymtl", "--version") == f"{__version__}\n"
    assert "mmoe" in _run(unpacked, tmp_path, "-m", "raymtl", "config", "presets")


def test_a_report_is_rendered_from_it(unpacked: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    assert _run(unpacked, tmp_path, "-m", "raymtl", "report", "run") == "report: run/report.html\n"
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()


def _run(unpacked: Path, folder: Path, *words: str) -> str:
    environment = {**clean_environment(), "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-P", *words]
    ended = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=;]", requirement)[0].strip()
