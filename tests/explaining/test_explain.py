"""`raymtl explain` on logs in which it is known what every column is worth."""

import datetime as dt
import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pyarrow as pa
import pytest

import raymtl
from raymtl.cli.main import run_command
from raymtl.config.data import DayRange
from raymtl.errors import ConfigError, DataError
from raymtl.explaining.fall import Fall, explain_fall
from raymtl.explaining.fall_page import fall_section
from raymtl.explaining.importance import Importances, permutation_importance, permuted
from raymtl.explaining.meter import Measured
from raymtl.explaining.model import LoadedModel
from raymtl.explaining.page import by_worth, render
from raymtl.explaining.proposal import judge, without
from raymtl.explaining.result import falls_to_dict
from raymtl.explaining.sample import Sample, SampleReader, source_columns
from raymtl.explaining.wording import amount, for_all, found_causes
from raymtl.reports.tables import ALL
from raymtl.results import ExplainResult
from raymtl.serving.version import open_version
from tests.benchmarks.explain.faults import with_fault, with_wrong_labels
from tests.benchmarks.explain.world import START, STRONG, USELESS, columns_of_day, write_day
from tests.explaining.conftest import ROWS, TRAINED

DAY = START + dt.timedelta(days=TRAINED)


@pytest.fixture(scope="module")
def result(world: Path) -> ExplainResult:
    return raymtl.explain(world / "store", days=str(DAY), rows=50_000, out=world / "explain.html", progress=False)


def loaded(world: Path) -> tuple[LoadedModel, SampleReader]:
    model = LoadedModel(open_version(str(world / "store")))
    return model, SampleReader(model.config, model.maps)


def read(reader: SampleReader, world: Path, day: int) -> Sample:
    date = START + dt.timedelta(days=day)
    return reader.read(reader.plan(str(world / "logs"), DayRange(start=date, end=date)), 50_000, 0)


def falls_on(world: Path, day: int, columns: dict[str, Any]) -> tuple[list[Fall], dict[str, Any]]:
    """The tasks on a new day with these columns, against the last usual one."""
    write_day(world / "logs", day, columns)
    model, reader = loaded(world)
    before, after = read(reader, world, TRAINED), read(reader, world, day)
    falls = explain_fall(model, reader, before, after, list(source_columns(model.config)), 0)
    facts = {"baseline": [str(DAY), str(DAY)], **falls_to_dict(model.config, falls, before, after)}
    return falls, facts


def test_the_columns_that_matter_come_first(result: ExplainResult) -> None:
    assert set(by_worth(result)[: len(STRONG)]) <= {*STRONG, "rate_again"}
    columns = result["columns"]
    assert all(columns[name]["verdict"] == "used" for name in STRONG)
    assert all(columns[name]["importance"]["click"]["low"] > 0 for name in STRONG)
    within = [c["low"] <= 0 <= c["high"] for n in USELESS for c in columns[n]["importance"].values()]
    assert sum(within) >= 0.8 * len(within)  # 95 % of them in the mean
    assert result["rows"] == ROWS
    assert set(result) <= set(ExplainResult.__annotations__)


def test_an_importance_is_the_fall_of_the_metric_on_exchanged_logs(world: Path) -> None:
    model, reader = loaded(world)
    sample = read(reader, world, TRAINED)
    found = permutation_importance(model, reader, sample, [("city",), ("rate",), ("city", "rate")], seed=3)
    labels, group = sample.labels[:, 0].numpy(), sample.group

    def auc(raw: pa.Table) -> float:
        from scipy.stats import rankdata

        values = {name: raw.column(name) for name in raw.column_names}
        scores = model.logits(reader.with_columns(sample, values))[:, 0].numpy()
        ranks, ones = rankdata(scores), labels == 1
        return float((ranks[ones].sum() - ones.sum() * (ones.sum() + 1) / 2) / (ones.sum() * (~ones).sum()))

    assert len(group) == ROWS
    base = auc(sample.raw)
    assert found.base["click", "all"].value == pytest.approx(base, abs=1e-6)
    for columns in found.of:
        raw = sample.raw
        for name, column in permuted(sample, columns, 3).items():
            assert sorted(column.to_pylist(), key=str) == sorted(raw.column(name).to_pylist(), key=str)
            raw = raw.set_column(raw.column_names.index(name), name, column)
        assert found.of[columns]["click", "all"].value == pytest.approx(base - auc(raw), abs=1e-6)
    one, both = found.of["city",]["click", "all"], found.of["city", "rate"]["click", "all"]
    assert both.value > one.value > one.half > 0
    other = found.of["rate",]["click", "all"]
    excess = found.excess["city", "rate"]["click", "all"]
    assert excess.value == pytest.approx(both.value - one.value - other.value, abs=1e-9)
    assert 0 < excess.half < both.half + one.half + other.half


def test_a_copy_is_not_called_useless_without_its_twin(result: ExplainResult) -> None:
    again = result["columns"]["rate_again"]
    assert again["twin"]["column"] == "rate"
    assert again["verdict"] != "useless"
    (group,) = result["groups_alike"]
    assert group["columns"] == ["rate", "rate_again"]
    assert group["excess"]["click"]["low"] > 0
    assert group["importance"]["click"]["value"] > group["sum"]["click"]
    proposal = result["proposal"]
    (pair,) = proposal["redundant"].items()
    assert set(pair) == {"rate", "rate_again"}
    assert set(proposal["useless"]) <= set(USELESS)
    assert len(proposal["useless"]) >= 8
    assert proposal["bytes_per_row"] == pytest.approx(
        sum(result["columns"][name]["bytes_per_row"] for name in [*proposal["useless"], pair[0]]), abs=0.1
    )


def test_dropped_columns_take_their_tables_along(world: Path) -> None:
    config = open_version(str(world / "store")).config
    less = without(config, ["noise_id", "rate"])
    assert set(config.features) - set(less.features) == {"noise_id", "rate"}
    assert set(config.tables) - set(less.tables) == {"noise_id"}
    with pytest.raises(ConfigError, match="no feature reads the column `nothing`"):
        without(config, ["nothing"])


@pytest.mark.parametrize(
    ("fault", "column", "words"),
    [
        ("shuffled", "city", "in the wrong rows"),
        ("shifted by one row", "tags", "in the wrong rows"),
        ("all null", "item", "100.0 % of its rows are null or empty, 0.0 % were"),
        ("stuck at one value", "price", "every row has the value"),
        ("IDs in another form", "city", "only 0.0 % of its rows have a value of the earlier day"),
        ("times 1000", "price", "its median is"),
        ("negated", "rate", "in the wrong rows"),
    ],
)
def test_a_broken_column_explains_the_fall(world: Path, fault: str, column: str, words: str) -> None:
    falls, facts = falls_on(world, TRAINED + 1, with_fault(columns_of_day(0, TRAINED + 1, ROWS), fault, column, 0))
    fallen = [fall for fall in falls if fall.has_fallen]
    assert fallen
    for fall in fallen:
        assert fall.causes[0].column == column
        assert 0.5 < fall.causes[0].lost / (fall.before - fall.after) < 2
    said = found_causes(facts)
    assert said.startswith(f"{column} explains the fall of ")
    assert words in said


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_no_column_explains_wrong_labels(world: Path, share: float) -> None:
    falls, facts = falls_on(world, TRAINED + 1, with_wrong_labels(columns_of_day(0, TRAINED + 1, ROWS), share, 0))
    assert all(fall.has_fallen and not fall.causes for fall in falls)
    assert found_causes(facts).startswith("No column explains the fall of click and spend: look at the labels")


def test_a_usual_day_has_no_fall(world: Path) -> None:
    falls, facts = falls_on(world, TRAINED + 1, columns_of_day(0, TRAINED + 1, ROWS))
    assert not any(fall.has_fallen or fall.causes for fall in falls)
    assert found_causes(facts) == "No metric has fallen beyond chance."


def test_two_broken_columns_are_both_named(world: Path) -> None:
    columns = columns_of_day(0, TRAINED + 1, ROWS)
    columns = with_fault(with_fault(columns, "shuffled", "city", 0), "all null", "item", 1)
    falls, facts = falls_on(world, TRAINED + 1, columns)
    assert {cause.column for cause in falls[0].causes} == {"city", "item"}
    section = fall_section(facts, {}, "v1")
    assert [row[4].text for row in section.parts[1].rows][:2] == [cause.column for cause in falls[0].causes]  # type: ignore[union-attr]


def test_the_command_prints_and_writes_the_page(
    world: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, result: ExplainResult
) -> None:
    write_day(world / "logs", TRAINED + 2, with_fault(columns_of_day(0, TRAINED + 2, ROWS), "shuffled", "city", 0))
    new = START + dt.timedelta(days=TRAINED + 2)
    page = tmp_path / "page.html"
    arguments = ["explain", str(world / "store"), "--days", str(new), "--baseline", str(DAY), "--out", str(page)]
    assert run_command([*arguments, "--json"]) == 0
    *lines, last = capfd.readouterr().out.splitlines()
    told = json.loads(last)
    assert told["report"] == str(page)
    assert told["fall"]["tasks"]["click"]["causes"][0]["column"] == "city"
    assert any(line.startswith("city explains the fall of click") for line in lines)
    assert any(line.startswith("Drop ") for line in lines)
    assert "city" not in told["proposal"]["useless"]  # it is broken, and not useless
    assert "2026-01-06, city has lost worth" in told["notes"][0]
    text = page.read_text()
    assert "Why it fell" in text
    assert "<script" not in text
    assert render(result) == (world / "explain.html").read_text()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ([], 64, "version v1 was evaluated on no days; set --days to days after 2026-01-03"),
        (["--days", "2026-01-09"], 65, "2026-01-09"),
        (
            ["--days", "2026-01-04", "--rows", "100"],
            65,
            "one needs 20 users with labels, and a binary one 20 positives",
        ),
        (["--days", "2026-01-04..2026-01-03"], 64, "--days is `2026-01-04..2026-01-03`"),
    ],
)
def test_a_mistake_is_one_sentence(
    world: Path, capfd: pytest.CaptureFixture[str], more: list[str], code: int, words: str
) -> None:
    assert run_command(["explain", str(world / "store"), *more]) == code
    assert words in " ".join(capfd.readouterr().err.split())


def test_days_of_the_training_are_noted(world: Path) -> None:
    found = raymtl.explain(world / "store", days="2026-01-03..2026-01-04", rows=500, progress=False)
    assert "was trained on days up to 2026-01-03" in found["notes"][0]
    assert found["rows"] < 1000


def test_amounts_have_two_digits_of_their_interval() -> None:
    assert amount("auc", {"value": 0.01234, "low": 0.01234 - 0.0031}) == "+0.0123 ± 0.0031"
    assert amount("mse", {"value": -31.2, "low": -31.2 - 12.3}) == "−31 ± 12"
    assert amount("auc", {"value": 2.8e-05, "low": 2.8e-05 - 1e-4}) == "+0.00003 ± 0.00010"
    assert amount("auc", {"value": 0.0, "low": 0.0}) == "0"
    assert amount("auc", {"value": 0.5, "low": None}) == "+0.5000"


def entry(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def made_result(**columns: tuple[str, float, float]) -> dict[str, Any]:
    """Columns with a verdict, and an importance with half an interval of .01 for the tasks a and b."""
    found = {
        name: {"verdict": verdict, "importance": {"a": entry(a, 0.01), "b": entry(b, 0.01)}}
        for name, (verdict, a, b) in columns.items()
    }
    return {"columns": found, "metrics": {"a": {"metric": "auc"}, "b": {"metric": "auc"}}}


def test_useless_columns_come_last() -> None:
    """No column is worth anything to task b, whose largest importance is chance: it makes no column important."""
    noise, weak = ("useless", 0.0, 0.005), ("used", 0.02, 0.001)
    result = made_result(noise=noise, weak=weak, strong=("used", 0.2, 0.0), twin=("redundant", 0.0, 0.0))
    assert by_worth(result) == ["strong", "weak", "twin", "noise"]


def test_shown_intervals_are_those_of_the_verdicts() -> None:
    wide = for_all(entry(0.0105, 0.01), 2)
    factor = NormalDist().inv_cdf(1 - 0.025 / 2) / NormalDist().inv_cdf(0.975)
    assert wide["low"] == pytest.approx(0.0105 - factor * 0.01)
    assert wide["high"] == pytest.approx(0.0105 + factor * 0.01)
    assert wide["low"] < 0 < entry(0.0105, 0.01)["low"]  # alone it seems used, as one of two it is chance
    scores = {("a", ALL): Measured(0.0105, 0.01), ("b", ALL): Measured(0.0, 0.01)}
    judged = judge(Importances({}, {("x",): scores}, {}), [])
    assert judged["x"].verdict == "useless"
    assert for_all(entry(1.0, 0.1), 1) == pytest.approx(entry(1.0, 0.1))
    assert for_all({"value": 0.5, "low": None, "high": None}, 3)["low"] is None


def test_logs_that_do_not_exist_name_the_option(world: Path) -> None:
    with pytest.raises(DataError, match=r"--data `/nowhere` does not exist; pass the folder of the logs with --data"):
        raymtl.explain(world / "store", "/nowhere", days=str(DAY), progress=False)
