"""What a job takes along."""

import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from raymtl.submission.package import environment, runtime_env
from raymtl.submission.request import UPLOADED


def packed(folder: str, tmp_path: Path) -> set[str]:
    """Names of the files that Ray would upload."""
    target = tmp_path / "package.zip"
    create_package(folder, target, include_gitignore=True, excludes=[".git", ".venv"])
    with zipfile.ZipFile(target) as file:
        return {name for name in file.namelist() if not name.endswith("/")}


def test_without_code_the_configuration_goes_alone(tmp_path: Path) -> None:
    with runtime_env("name: a\n", None, None, {}) as found:
        assert set(found) == {"working_dir"}
        assert packed(found["working_dir"], tmp_path) == {UPLOADED}
        assert Path(found["working_dir"], UPLOADED).read_text() == "name: a\n"
    assert not Path(found["working_dir"]).exists()


def test_nothing_is_uploaded_where_nothing_is_needed() -> None:
    with runtime_env(None, None, None, {"A": "b"}) as found:
        assert found == {"env_vars": {"A": "b"}}


def test_code_goes_as_its_ignore_files_say_and_the_configuration_always(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for name in ("mine/slot.py", "mine/__init__.py", "logs/part.parquet", "deep/.gitignore", "deep/kept", "deep/left"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("deep" if name.endswith("slot.py") else "left" if "gitignore" in name else "")
    (code / UPLOADED).write_text("of an earlier time")
    (code / ".gitignore").write_text("/logs/\n*.yaml")
    (code / ".rayignore").write_text("raymtl-*\n")
    with runtime_env("name: a\n", str(code), None, {}) as found:
        names = packed(found["working_dir"], tmp_path)
        assert names == {
            *("mine/slot.py", "mine/__init__.py", "deep/.gitignore", "deep/kept"),
            *(".gitignore", ".rayignore", UPLOADED),
        }
        assert Path(found["working_dir"], UPLOADED).read_text() == "name: a\n"
    assert (code / UPLOADED).read_text() == "of an earlier time"
    assert (code / "mine" / "slot.py").read_text() == "deep"  # the links are gone, and not what they led to


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "x")
    assert environment(["FROM_HERE", "GIVEN=a=b", "EMPTY="]) == {"FROM_HERE": "x", "GIVEN": "a=b", "EMPTY": ""}
