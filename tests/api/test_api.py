"""`import raymtl` gives the API, quickly; its errors are UserErrors."""

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest

import raymtl

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "ray", "torchrec", "pyarrow", "pandas", "matplotlib"}
EXAMPLE = ROOT / "jobs/conf/example.yaml"


@pytest.mark.parametrize(
    "code",
    [
        "import raymtl; raymtl.errors.UserError; raymtl.train",
        f"import raymtl; raymtl.load_config({str(EXAMPLE)!r})",
        "import raymtl.cli.main",
    ],
)
def test_the_start_imports_nothing_heavy(code: str) -> None:
    assert HEAVY & modules_after(code) == set()


def test_training_needs_no_torch_outside_the_workers() -> None:
    modules = "raymtl.training.driver", "raymtl.training.entry", "raymtl.training.process_group"
    assert {"torch", "torchrec", "scipy", "matplotlib"} & modules_after(f"import {', '.join(modules)}") == set()


def modules_after(code: str) -> set[str]:
    found = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(found.stdout.split())


def test_every_name_is_there() -> None:
    for name in raymtl.__all__:
        assert getattr(raymtl, name) is not None
        assert name in dir(raymtl)
    with pytest.raises(AttributeError, match="has no attribute `trian`"):
        raymtl.trian  # noqa: B018


def test_overrides_as_a_dict_and_as_a_list_say_the_same() -> None:
    changes = {"train.workers": 3, "data.eval": {"start": dt.date(2026, 1, 4), "end": dt.date(2026, 1, 4)}, "name": "x"}
    texts = ["train.workers=3", "data.eval={start: 2026-01-04, end: 2026-01-04}", "name=x"]
    assert raymtl.load_config(EXAMPLE, changes) == raymtl.load_config(str(EXAMPLE), texts)


def test_mistakes_are_user_errors(tmp_path: Path) -> None:
    cases = [
        (lambda: raymtl.load_config(EXAMPLE, {"train.worker": 1}), "train.worker"),
        (lambda: raymtl.train(tmp_path / "none.yaml"), "none.yaml"),
        (lambda: raymtl.run_daily(EXAMPLE, "yesterday"), "date is `yesterday`; write a day as YYYY-MM-DD"),
        (lambda: raymtl.run_daily(EXAMPLE, "2026-01-01", first="2026-01-02"), "first is 2026-01-02"),
        (
            lambda: raymtl.score(tmp_path, tmp_path, tmp_path, days="2026-01-02..2026-01-01"),
            "days is `2026-01-02..2026",
        ),
        (lambda: raymtl.open_store(tmp_path).show(), "has no version"),
    ]
    for call, sentence in cases:
        with pytest.raises(raymtl.errors.UserError, match=sentence.replace(".", r"\.")):
            call()


def test_an_empty_store(tmp_path: Path) -> None:
    store = raymtl.open_store(tmp_path)
    assert (store.current(), store.versions(), store.path) == (None, [], str(tmp_path))
    assert repr(store) == f"ModelStore('{tmp_path}')"


def test_a_notebook_shows_the_sentence_alone() -> None:
    with pytest.raises(raymtl.errors.ConfigError) as caught:
        raymtl.load_config(EXAMPLE, {"train.worker": 1})
    (line,) = caught.value._render_traceback_()  # IPython calls it
    assert line.startswith("ConfigError: ")
    assert "did you mean `workers`?" in line
