"""The HTML report and the terminal table: whole runs, growing ones, damaged ones, and folders that are no runs."""

import io
import json
import pathlib
import re

import pytest
import torch
from rich.console import Console

from raymtl.config.tasks import Task
from raymtl.errors import UserError
from raymtl.reports.chance import LEGEND
from raymtl.reports.html import render, write_report
from raymtl.reports.load import load_run
from raymtl.reports.style import PALETTE
from raymtl.reports.terminal import metric_table
from raymtl.storage.folder import Folder
from tests.helpers.fake_run import SCENARIOS, TASKS, write_run

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "aitm-daily"
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def page(finished: pathlib.Path) -> str:
    return pathlib.Path(write_report(str(finished))).read_text()


def words(page: str) -> str:
    """What a reader sees: no tags, no drawings, no style."""
    page = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def show(result: dict) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(metric_table(result))
    return console.export_text()


def test_the_report_lies_in_the_run_or_where_asked(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "young", evals=0, finished=False)
    assert write_report(str(tmp_path / "young")) == f"{tmp_path}/young/report.html"
    out = str(tmp_path / "r.html")
    assert write_report(f"{tmp_path}/young/", out) == out
    assert pathlib.Path(out).read_text().startswith("<!doctype html>")


def test_it_has_what_was_asked_for(page: str) -> None:
    text = words(page)
    for piece in (
        "aitm-daily",
        "finished",
        "train 2026-11-01..2026-11-14",
        "24 M",
        "1,312 left out",
        "0.8179",
        "config 9f2c61d07be4",
    ):
        assert piece in text
    for title in (
        "Tasks",
        "AUC of each evaluation",
        "Loss",
        "Calibration",
        "Scenarios",
        "Order of the funnel",
        "Speed",
        "Configuration",
    ):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 2 * 6  # for large screens and for phones
    assert "no positives among 7,005 observed labels" in text
    assert "alpha: 0.6" in text
    assert "torchrec" in text
    assert all(name in text for name in [*TASKS, *SCENARIOS])
    assert LEGEND in text
    assert "background-attachment: local" in page  # the shade of an edge that can be scrolled to


def test_it_needs_nothing_from_outside(page: str) -> None:
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    addresses = set(re.findall(r"""(?:https?:)?//[^\s"'<)]+""", re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)))
    assert addresses == {"//logs/impressions"}  # the data path, shown in the config
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert len(page) < 2_000_000


def test_tasks_keep_their_colours(page: str) -> None:
    for name, colour in zip(TASKS, PALETTE, strict=False):
        assert f'style="background: {colour}"></span>{name}' in page
        drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
        assert sum(colour in drawing for drawing in drawings) >= 2


def test_drawings_follow_the_page_in_light_and_dark(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page
    assert not re.search(r"#0[1-9a-b]0[1-9a-b]0[1-9a-c]", page)
    labels = re.findall(r'<svg[^>]*aria-label="([^"]+)"', page)
    assert len(labels) == 2 * 6
    assert labels[::2] == labels[1::2]


def test_the_same_run_gives_the_same_page(finished: pathlib.Path, page: str) -> None:
    assert render(load_run(Folder.open(str(finished)))) == page


def test_a_run_without_result(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "going", evals=2, finished=False)
    text = words(render(load_run(Folder.open(str(tmp_path / "going")))))
    assert "no result yet" in text
    assert "There is no result.json: the run is still running, or it was stopped." in text
    assert "after 8,000,000 rows of training, the last one so far" in text


def test_a_run_before_its_first_evaluation(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "young", evals=0, finished=False)
    page = render(load_run(Folder.open(str(tmp_path / "young"))))
    assert "No evaluation has finished yet" in words(page)
    assert "no evaluation yet" in words(page)
    assert "<h2>Loss</h2>" in page
    assert "<h2>Calibration</h2>" not in page


def test_a_run_before_its_first_step(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "newborn", evals=0, finished=False)
    (tmp_path / "newborn" / "metrics.jsonl").unlink()
    text = words(render(load_run(Folder.open(str(tmp_path / "newborn")))))
    assert "no training step has been logged yet" in text
    assert "–" in text


@pytest.mark.parametrize("kept", ["config.yaml", "metrics.jsonl", "result.json"])
def test_any_one_file_makes_a_report(finished: pathlib.Path, tmp_path: pathlib.Path, kept: str) -> None:
    (tmp_path / kept).write_bytes((finished / kept).read_bytes())
    assert "<h1>" in render(load_run(Folder.open(str(tmp_path))))


def test_without_truth_and_groups_their_columns_go(tmp_path: pathlib.Path) -> None:
    tasks = {"click": Task(), "buy": Task(parent="click")}
    result = write_run(tmp_path / "plain", evals=1, tasks=tasks)
    for reports in [result["metrics"]["eval"], *result["metrics"]["scenarios"].values()]:
        for report in reports.values():
            report |= {"gauc": None, "gauc_null_reason": "no group column, or no row of this slice is in the sample"}
    (tmp_path / "plain" / "result.json").write_text(json.dumps(result))
    page = render(load_run(Folder.open(str(tmp_path / "plain"))))
    assert "<th>AUC</th>" in page
    assert "<th>best</th>" not in page
    assert "<th>GAUC</th>" not in page
    assert "no group column" not in page
    assert "There has been one evaluation; a curve needs two." in words(page)
    assert "GAUC" not in show(result)


def test_a_restart_is_shown_once(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lines = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:300] + lines[100:]))
    run = load_run(Folder.open(str(tmp_path)))
    whole = load_run(Folder.open(str(finished)))
    assert run.restarts == 1
    assert run.train == whole.train
    assert [e["rows"] for e in run.evals] == [e["rows"] for e in whole.evals]
    assert "resumed from a checkpoint once" in " ".join(run.notes)
    (tmp_path / "result.json").write_text(json.dumps({"status": "finished", "starts": 4}))
    assert "resumed from a checkpoint 3 times" in " ".join(load_run(Folder.open(str(tmp_path))).notes)


def test_a_half_written_last_line_is_no_damage(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = (finished / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text[:-700])
    assert not any("could not be read" in note for note in load_run(Folder.open(str(tmp_path))).notes)


def test_damaged_and_unknown_lines_are_counted_or_passed_over(tmp_path: pathlib.Path) -> None:
    good = {"kind": "train", "step": 1, "rows": 10, "loss": 1.0, "losses": {"click": 1.0}}
    lines = [
        json.dumps(good),
        "{torn",
        '{"kind": "note", "rows": 3}',
        '{"kind": "eval", "rows": 5, "metrics": null}',
        "[]",
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = load_run(Folder.open(str(tmp_path)))
    assert run.train == [good]
    assert run.evals == []
    assert "3 of the 5 lines of metrics.jsonl could not be read, the first one line 2." in run.notes
    assert "<h2>Loss</h2>" in render(run)


def test_numbers_that_are_not_finite_do_not_stop_the_report(tmp_path: pathlib.Path) -> None:
    lines = [
        {
            "kind": "train",
            "step": i,
            "rows": i * 10,
            "loss": float("nan"),
            "losses": {"click": float("nan")},
            "rows_per_s": None,
        }
        for i in range(1, 4)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "<h2>Loss</h2>" not in render(load_run(Folder.open(str(tmp_path))))


def test_text_from_files_is_escaped(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.yaml").write_text("name: '<b>x</b>'\ntasks: {'a<i>': {}}\n")
    lines = [{"kind": "train", "step": i, "rows": i, "losses": {"a<i>": 1.0 / i}} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = render(load_run(Folder.open(str(tmp_path))))
    assert "<b>" not in page
    assert "a<i>" not in page


def test_a_folder_that_is_no_run_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        write_report(str(tmp_path / "nowhere"))
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(UserError, match=r"neither a run \(it has none of config\.yaml"):
        write_report(str(tmp_path))
    (tmp_path / "result.json").write_text("{half")
    with pytest.raises(UserError, match=r"result\.json` is damaged"):
        write_report(str(tmp_path))
    (tmp_path / "result.json").write_text("[1]")
    with pytest.raises(UserError, match="holds a list, expected a mapping"):
        write_report(str(tmp_path))


def test_a_place_that_cannot_be_written_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    write_run(tmp_path / "young", evals=0, finished=False)
    with pytest.raises(UserError, match="cannot be written"):
        write_report(str(tmp_path / "young"), str(tmp_path / "file" / "report.html"))


def test_terminal_table(finished: pathlib.Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    text = show(result)
    computed = {**result["metrics"], "tasks": result["metrics"].pop("eval")}
    computed.pop("eval")
    assert text == show(computed)
    assert text == show({"metrics": {"eval": computed}})
    lines = text.splitlines()
    click = computed["tasks"]["click"]
    assert lines[0].split() == [
        "task",
        "scenario",
        "AUC",
        "best",
        "gap",
        "rows",
        "pos.",
        "calib.",
        "GAUC",
        "NE",
        "groups",
    ]
    half = (click["intervals"]["auc"][1] - click["intervals"]["auc"][0]) / 2
    value = f"{click['auc']:.4f}±{half:.4f}".replace("±0", "±")
    assert lines[1].split()[:4] == ["click", "all", value, f"{click['truth_auc']:.4f}"]
    per_task = 1 + len(SCENARIOS)
    assert len(lines) == 1 + len(TASKS) * per_task + 1 + per_task + 2, (
        "the columns of values follow, for their task alone"
    )
    assert lines[1 + len(TASKS) * per_task].split() == ["task", "scenario", "error", "constant", "best"]
    assert lines[-2:] == [
        "buy, live: no positives among 7,005 observed labels",
        "buy, other: no interval: too few distinct rows for GAUC",
    ]
    assert "deviance 1." in text


def test_terminal_table_of_nothing() -> None:
    for result in (
        {"metrics": {"eval": None}, "status": "stopped"},
        {"metrics": {"eval": {}, "scenarios": {}}},
        {"status": "failed"},
    ):
        assert "task" in show(result)


def test_text_is_readable_on_a_phone(page: str) -> None:
    """14 px in the style, and in drawings as the page scales them: 358 px on a screen of 390."""
    style = page[: page.index("</style>")]
    assert min(map(int, re.findall(r"font(?:-size)?: ([0-9]+)px", style))) == 13
    assert "table.tight { font-size: 14px; }" in page.partition("@media (max-width: 760px)")[2]
    for kind, px in (("large-screen", 1104), ("phone", 358)):
        drawn = re.findall(rf'<div class="{kind}">(<svg.*?</svg>)', page, flags=re.DOTALL)
        assert len(drawn) == 6
        for drawing in drawn:
            width = float(re.findall(r'viewBox="0 0 ([0-9.]+) ', drawing)[0])
            texts = re.findall(
                r'<text[^>]*style="[^"]*font-size: ([0-9.]+)px|<text[^>]*style="[^"]*font: (?:\w+ )?([0-9.]+)px',
                drawing,
            )
            sizes = [float(a or b) * px / width for a, b in texts]
            assert min(sizes) >= 14
