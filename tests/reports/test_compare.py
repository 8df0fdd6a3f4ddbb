"""The page that compares runs."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from raymtl.cli.main import run_command
from raymtl.errors import UserError
from raymtl.reports.chance import LEGEND
from raymtl.reports.compare import _difference, beside, differences, write_comparison
from raymtl.reports.html import write_report
from raymtl.reports.page import Cell
from tests.helpers.fake_run import TASKS, write_run

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and one that has not finished, of another configuration."""
    folder = tmp_path_factory.mktemp("compared")
    write_run(folder / "base")
    write_run(folder / "alpha", evals=3, finished=False)
    path = folder / "alpha" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["order_loss"]["alpha"] = 1.0
    config["train"] |= {"batch_size": 4096, "dense_optimizer": {"type": "adam", "lr": 0.002}}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> str:
    path, _ = write_comparison([f"{runs}/base/", f"{runs}/alpha"])
    assert path == f"{runs}/comparison.html"
    return Path(path).read_text()


def words(page: str) -> str:
    page = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_metrics_stand_together_with_the_difference_to_the_first(runs: Path, page: str) -> None:
    text = words(page)
    base = json.loads((runs / "base" / "result.json").read_text())["metrics"]["eval"]
    lines = [json.loads(line) for line in (runs / "alpha" / "metrics.jsonl").read_text().splitlines()]
    other = [line for line in lines if line["kind"] == "eval"][-1]["metrics"]["tasks"]
    for task in ("click", "cart", "buy"):
        a, b = base[task]["auc"], other[task]["auc"]
        assert f"{task} base {a:.4f} ± 0.0" in text
        difference = f"{b - a:+.4f}".replace("-", "−")
        assert re.search(rf" alpha {b:.4f} ± 0\.\d+ {re.escape(difference)} ", text)
    deviance = other["dwell_s"]["poisson_deviance"]
    assert re.search(rf"alpha deviance {deviance:.3f} ± 0\.\d+ \+0\.122 ", text)
    assert "alpha: There is no result.json: the run is still running" in text
    assert "rows trained 24,000,000 12,000,000" in text
    assert "batch 8,192 4,096" in text
    assert "steps 2,929 1,464" in text
    assert "learning rate – adam 0.002" in text
    assert "different rows" not in text
    assert LEGEND in text


def test_curves_of_all_runs_share_a_panel_per_task(page: str) -> None:
    labels = re.findall(r'<svg[^>]*aria-label="([^"]+)"', page)
    assert labels[::2] == [
        "AUC of each evaluation against rows seen for click, cart, buy: base, alpha",
        f"Training loss against rows seen for {', '.join(TASKS)}: base, alpha",
    ]


def test_only_keys_that_differ_are_shown(page: str) -> None:
    part = words(page[page.index("<h2>Configuration</h2>") :])
    assert "key base alpha model.order_loss.alpha 0.6 1.0 train.batch_size 8192 4096 train.dense_optimizer – {" in part
    assert "tasks" not in part
    assert "epochs" not in part


def test_differences_by_hand() -> None:
    a = {"x": 1, "m": {"type": "mmoe", "hidden": [8, 4], "same": True}, "gone": {"k": None}, "no": None}
    b = {"x": 1, "m": {"type": "ple", "hidden": [8], "same": True, "more": "a: b"}, "no": 0}
    assert list(differences([a, b])) == [
        ("m.type", ["mmoe", "ple"]),
        ("m.hidden", ["[8, 4]", "[8]"]),
        ("m.more", ["–", "'a: b'"]),
        ("gone", ["{k: null}", "–"]),
        ("no", ["null", "0"]),
    ]
    assert list(differences([a, a, a])) == []


def test_runs_of_one_name_are_told_apart_and_other_rows_are_pointed_out(runs: Path, tmp_path: Path) -> None:
    result = write_run(tmp_path / "base", evals=1)
    result["metrics"]["rows"] = 30_000
    (tmp_path / "base" / "result.json").write_text(json.dumps(result))
    out = str(tmp_path / "two.html")
    path, named = write_comparison([f"{runs}/base", f"{tmp_path}/base"], out)
    assert (path, list(named)) == (out, [f"{runs}/base", f"{tmp_path}/base"])
    text = words(Path(out).read_text())
    assert f"{tmp_path}/base on 30,000 rows of 2026-11-15 in s3://logs/impressions" in text
    assert "The configurations are the same, apart from the name." in text


def test_runs_that_have_just_begun(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, evals=0, finished=False)
        (tmp_path / name / "metrics.jsonl").unlink()
    (tmp_path / "b" / "config.yaml").write_text("name: b\n")
    path, _ = write_comparison([str(tmp_path / "a"), str(tmp_path / "b")])
    text = words(Path(path).read_text())
    assert "a: No evaluation has finished yet" in text
    assert "<h2>Curves</h2>" not in Path(path).read_text()


def test_the_page_lies_next_to_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert beside("a") == f"{tmp_path}/comparison.html"
    url = "s3://bucket/runs/a/?endpoint_override=http://127.0.0.1:9000"
    assert beside(url) == "s3://bucket/runs/comparison.html?endpoint_override=http://127.0.0.1:9000"


def test_what_cannot_be_compared_is_refused(runs: Path, tmp_path: Path) -> None:
    base = f"{runs}/base"
    with pytest.raises(UserError, match="is given twice; pass different runs"):
        write_comparison([base, f"{base}/"])
    (tmp_path / "days").mkdir()
    with pytest.raises(UserError, match="is the store of a daily job"):
        write_comparison([base, str(tmp_path)])
    with pytest.raises(UserError, match="there is no folder"):
        write_comparison([base, f"{runs}/none"])


def test_the_command_prints_a_line_per_run(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", f"{runs}/base", f"{runs}/alpha", "--json"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "rows", "trained", "mean", "AUC", *TASKS]
    assert lines[2].split()[:3] == ["alpha", "12,000,000", "0.7941"]
    assert json.loads(lines[-1]) == {"report": f"{runs}/comparison.html"}


def test_a_run_says_its_settings_at_the_top(runs: Path) -> None:
    text = words(Path(write_report(f"{runs}/alpha")).read_text())
    assert "preset aitm · batch 4,096 · learning rates adam 0.002 · 2 epochs · 4 workers" in text


def test_a_difference_is_grey_if_it_lies_within_the_intervals() -> None:
    def auc(value: float, low: float, high: float) -> dict:
        return {"kind": "binary", "auc": value, "intervals": {"auc": [low, high]}}

    base = auc(0.70, 0.69, 0.71)
    assert _difference(base, base) == Cell("=", "faint")
    assert _difference(auc(0.71, 0.70, 0.73), base) == Cell("+0.0100", "faint")  # the two halves make 0.0141
    assert _difference(auc(0.68, 0.67, 0.69), base) == Cell("−0.0200")
    assert _difference({"kind": "binary", "auc": 0.71}, base) == Cell("+0.0100")  # nothing is known of it
    assert _difference({"kind": "real", "mse": 2.5}, {"kind": "real", "mse": 2.0}) == Cell("+0.500")
