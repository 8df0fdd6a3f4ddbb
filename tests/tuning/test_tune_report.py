"""The page of a search: the right sections and words for every kind of search, and for those that hardly began."""

import json
import pathlib
import random
import re
from typing import Any

import pytest
from matplotlib.axes import Axes
from optuna.distributions import CategoricalDistribution

from raymtl.config.load import load_config
from raymtl.reports.plots import PAPER
from raymtl.training.rundir import RunFolder
from raymtl.tuning.recommendation import keeps_limits
from raymtl.tuning.report.importance import FEWEST, by_importance, importances
from raymtl.tuning.report.outcome import objective_by_trial
from raymtl.tuning.report.page import write_report
from raymtl.tuning.report.parallel import parallel
from raymtl.tuning.report.plot_markers import limits
from raymtl.tuning.report.report_data import View
from raymtl.tuning.result import write_result
from raymtl.tuning.search import Search
from raymtl.tuning.space import SearchDimension
from raymtl.tuning.trial_store import Trial
from tests.helpers.fake_search import BASE, SPACE, add, draws, effect_of, filled, make_search, repeat, result_of

ONE: dict[str, Any] = {
    "space": SPACE,
    "presets": ["loss_weights", "alpha"],
    "objective": {"metric": "mean_auc", "subject_to": {"order_violations": {"at_most": 0.065}}},
}
TWO: dict[str, Any] = {"space": SPACE, "objective": {"pareto": ["click.auc", "buy.logloss"]}}
PLAIN: dict[str, Any] = {"space": SPACE, "objective": {"metric": "mean_auc"}}


def written(search: Search, folder: pathlib.Path) -> str:
    folder.mkdir(exist_ok=True)
    path = write_report(search, RunFolder.open(str(folder)), result_of(search, folder))
    assert path == f"{folder}/report.html"
    return pathlib.Path(path).read_text()


def words(page: str) -> str:
    """What a reader sees: no tags, no drawings, no style."""
    page = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page).replace("\u200b", ""))


def verdict(page: str) -> str:
    found = re.search(r'<p class="verdict">(.*?)</p>', page, flags=re.DOTALL)
    assert found is not None
    return words(found[1]).strip()


def sections(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def drawings(page: str) -> list[str]:
    return re.findall(r'aria-label="(.*?)"', page)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("one")
    limit = {"order_violations": {"at_most": 0.06}}  # the default breaks it with every seed
    return written(filled(folder, {**ONE, "objective": {"metric": "mean_auc", "subject_to": limit}}, 24), folder)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("two")
    return written(filled(folder, TWO, 40), folder)


def test_one_objective_with_a_limit_alpha_and_weights_has_every_section(one: str) -> None:
    assert sections(one) == [
        "Objective by trial",
        "Gain over fresh seeds",
        "Recommended configuration",
        "Importance of the fields",
        "All fields together",
        "Alpha",
        "Loss weights",
        "Learning curves",
        "Trials",
    ]
    seen = " | ".join(drawings(one))
    assert "mean_auc against order_violations, and the limits" in seen
    assert "order_violations, click.auc, cart.auc, buy.auc against alpha" in seen
    assert "where order_violations at most 0.06" in words(one)
    assert "Failures" in words(one)
    assert "the loss is not finite (loop.py:88)" in words(one)


def test_the_page_needs_nothing_from_outside(one: str, two: str) -> None:
    for page in (one, two):
        assert "<script" not in page
        assert not re.search(r'(src|href)="http', page)
        assert "url(http" not in page
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", page), "a stand-in colour was left in"


def test_several_objectives_show_a_front_and_neither_alpha_nor_weights(two: str) -> None:
    assert sections(two)[0] == "Pareto front"
    assert not {"Alpha", "Loss weights"} & set(sections(two))
    seen = drawings(two)
    assert sum("coloured by" in name for name in seen) == 2
    assert not any("limits" in name for name in seen)
    assert "buy: log loss (nats), lower is better" in two


def test_a_long_table_is_folded(one: str, two: str) -> None:
    assert "<summary>All 40 trials</summary>" in two
    assert "<summary>All" not in one


def test_the_table_has_the_recommended_trial_first_and_failures_last(one: str) -> None:
    table = one[one.index("<h2>Trials</h2>") :]
    names = re.findall(r'<tr><td class="name">(\d+)(?: <small>(.*?)</small>)?</td><td class="part">(.*?)</td>', table)
    assert names[0][1].startswith("recommended")
    states = [state for _, _, state in names[:24]]
    order = ["finished", "breaks a limit", "stopped", "failed"]
    assert states == sorted(states, key=order.index)
    assert {"finished", "stopped", "failed"} <= set(states)


def test_every_seed_of_the_repeats_is_shown(one: str) -> None:
    section = one[one.index("<h2>Gain over") : one.index("<h2>Recommended")]
    shown = words(section)
    assert re.findall(r"(?<=mean_auc) 2 ", shown), shown
    assert "half the 95 % interval" in shown
    assert "default and best trial over fresh seeds" in section.lower()


def fixed(values: dict[int, float]) -> Any:
    """An effect that gives every seed its noise, of another sign for the trial with another learning rate, which gains more."""

    def effect(trial: Trial) -> dict[str, float]:
        default = trial.config["train"]["dense_optimizer"]["lr"] == 0.001
        noise = values.get(trial.seed, 0.0)
        value = 0.7 - noise if default else 0.7 + values[0] + noise
        return dict.fromkeys(("click", "cart", "buy"), value) | {"order": 0.05}

    return effect


def small(folder: pathlib.Path, effect: Any, tune: dict[str, Any] = PLAIN, seeds: int = 3) -> Search:
    search = make_search(folder, tune)
    default = search.space.default()
    assert default is not None
    add(search, default, effect, "default")
    add(search, {**default, "train.dense_optimizer.lr": 0.004}, effect)
    repeat(search, effect, seeds)
    return search


def test_the_verdict_tells_a_gain_from_noise(tmp_path: pathlib.Path) -> None:
    quiet = written(small(tmp_path, fixed({0: 0.02, 2: 0.001, 3: -0.001})), tmp_path)
    assert verdict(quiet).startswith("Better : trial 1 beats the default over 3 fresh seeds: mean_auc +0.0200 ± ")
    assert "train.dense_optimizer.lr 0.004" in verdict(quiet)
    assert '"status good"' in quiet
    assert verdict(quiet).endswith("best.yaml holds trial 1.")
    loud = written(small(tmp_path, fixed({0: 0.002, 2: 0.05, 3: -0.05})), tmp_path)
    assert verdict(loud).startswith("Within the noise : trial 1 does not differ from the default")
    assert verdict(loud).endswith("The default stays the recommendation, and best.yaml holds it.")
    assert "Best trial, not recommended" in sections(loud)
    assert "best, not recommended (trial 1)" in loud
    alone = written(small(tmp_path, fixed({0: 0.02}), seeds=1), tmp_path)
    assert verdict(alone).startswith(
        "Not proven : the fresh seeds show no noise to compare trial 1 with over 1 fresh seed:"
    )
    none = written(small(tmp_path, fixed({0: 0.02}), seeds=0), tmp_path)
    assert verdict(none).startswith(
        "Not proven : trial 1 reached mean_auc 0.7200, the default 0.7000, with train.dense_optimizer.lr 0.004"
    )
    assert "it was not repeated with fresh seeds, and one run of each cannot tell a gain from noise." in verdict(none)
    assert verdict(none).endswith("best.yaml holds it.")


def test_best_yaml_is_the_default_where_the_gain_is_within_the_noise(tmp_path: pathlib.Path) -> None:
    def lr_of_best_yaml(values: dict[int, float], seeds: int) -> float:
        search = small(tmp_path, fixed(values), seeds=seeds)
        result = write_result(search, RunFolder.open(str(tmp_path)), {"searched_s": 12.0})
        assert result["best"] == 1
        found = load_config(result["best_config"])
        own = search.trial_store.trials[result["recommended"]].config
        assert found.model_dump(mode="json") == {**own, "name": "shop-best"}
        return found.train.dense_optimizer.lr

    assert lr_of_best_yaml({0: 0.02, 2: 0.001, 3: -0.001}, seeds=3) == 0.004
    assert lr_of_best_yaml({0: 0.002, 2: 0.05, 3: -0.05}, seeds=3) == 0.001
    assert lr_of_best_yaml({0: 0.02, 2: 0.001}, seeds=0) == 0.001


def test_trials_are_dots_and_repeats_have_bars(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[int] = []
    bars: list[tuple[float, float]] = []
    plot, errorbar = Axes.plot, Axes.errorbar

    def plotted(ax: Axes, x: Any, *more: Any, **look: Any) -> Any:
        lines.append(len(x))
        return plot(ax, x, *more, **look)

    def barred(ax: Axes, x: Any, y: Any, yerr: Any, xerr: Any, **look: Any) -> Any:
        bars.append((y[0], yerr[0]))
        return errorbar(ax, x, y, yerr, xerr, **look)

    monkeypatch.setattr(Axes, "plot", plotted)
    monkeypatch.setattr(Axes, "errorbar", barred)
    search = small(tmp_path, fixed({0: 0.02, 2: 0.001, 3: -0.001, 4: 0.003}))
    view = View(search, result_of(search, tmp_path))
    assert objective_by_trial(view)
    assert set(lines) <= {0, 1, 2}  # no point is joined with another; 2: the horizontal line of the default, and caps
    half = 4.3026527 * 0.002 / 3**0.5
    wide_and_narrow = 2
    assert bars == [(pytest.approx(mean), pytest.approx(half)) for mean in (0.699, 0.721)] * wide_and_narrow


def test_the_verdict_says_where_only_the_recommended_trial_keeps_the_limits(tmp_path: pathlib.Path) -> None:
    def effect(trial: Trial) -> dict[str, float]:
        default = trial.config["train"]["dense_optimizer"]["lr"] == 0.001
        found = 0.75 if default else 0.74
        return {"click": found, "cart": found, "buy": found + 0.0001 * trial.seed, "order": 0.09 if default else 0.01}

    page = written(small(tmp_path, effect, ONE), tmp_path)
    assert verdict(page).startswith("Keeps the limits , unlike the default: trial 1 compared with it")
    assert "breaks a limit" in words(page)


def test_a_limit_broken_over_fresh_seeds_is_noted(tmp_path: pathlib.Path) -> None:
    def effect(trial: Trial) -> dict[str, float]:
        better = trial.config["train"]["dense_optimizer"]["lr"] != 0.001
        return {"click": 0.7 + 0.02 * better, "cart": 0.7, "buy": 0.7, "order": 0.05 if trial.seed == 1 else 0.08}

    page = written(small(tmp_path, effect, ONE), tmp_path)
    assert "Over fresh seeds trial 1 breaks the limit on order_violations: 8.00 %" in words(page)


def test_importance_ranks_the_field_that_decides_first(tmp_path: pathlib.Path) -> None:
    search = filled(tmp_path, ONE, 40, odd=False)
    view = View(search, result_of(search, tmp_path))
    found = importances(view)
    assert list(found) == ["mean_auc"]
    assert by_importance(found)[0] == "train.dense_optimizer.lr"
    assert sum(found["mean_auc"].values()) == pytest.approx(1.0)


def test_importance_holds_for_a_metric_of_which_less_is_better(tmp_path: pathlib.Path) -> None:
    search = filled(tmp_path, {**TWO, "objective": {"metric": "click.logloss"}}, 40, odd=False)
    found = importances(View(search, result_of(search, tmp_path)))
    assert by_importance(found)[0] == "train.dense_optimizer.lr"


def test_too_few_trials_say_so_in_words(tmp_path: pathlib.Path) -> None:
    page = written(filled(tmp_path, PLAIN, FEWEST - 2, odd=False), tmp_path)
    assert f"With {FEWEST - 2} measured trials no importance can be computed; it needs {FEWEST}." in words(page)


def test_names_are_no_html(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "a<i>"
    search, rng = make_search(tmp_path, PLAIN), random.Random(1)
    effect = effect_of(rng)
    add(search, search.space.default() or {}, effect, "default")
    for _ in range(9):
        add(search, draws(search, rng), effect)
    bad = add(search, draws(search, rng), effect, status="failed")
    bad.reason, bad.fields = "<script>alert(1)</script>", {"x": "<b>&$a$"}
    odd = SearchDimension("x<u>$", CategoricalDistribution(["1", "2"]), ("x",), ("a<b>&$x$", "plain"))
    search.space.dimensions.append(odd)
    for trial in search.trial_store.trials.values():
        trial.params[odd.name] = str(1 + trial.number % 2)
    page = written(search, folder)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search("<[biu]>", page)
    assert "a&lt;b&gt;&amp;$x$" in " ".join(re.findall("<svg.*?</svg>", page, flags=re.DOTALL))


def test_searches_that_hardly_began(tmp_path: pathlib.Path) -> None:
    for tune in (ONE, TWO):
        empty = written(make_search(tmp_path, tune), tmp_path)
        assert verdict(empty).startswith("No trial yet")
        assert not drawings(empty)

        search = make_search(tmp_path, tune)
        add(search, search.space.default() or {}, effect_of(random.Random(1)), "default")
        assert verdict(written(search, tmp_path)).startswith("Only the default was trained so far")

        search = make_search(tmp_path, tune)
        add(search, search.space.default() or {}, effect_of(random.Random(1)), "default", status="running")
        page = written(search, tmp_path)
        assert verdict(page).startswith("No result yet")
        assert "resumes it" in words(page)

        search = make_search(tmp_path, tune)
        rng = random.Random(2)
        for kind in ("default", "search", "search"):
            add(search, draws(search, rng), effect_of(rng), kind, status="failed")
        page = written(search, tmp_path)
        assert verdict(page).startswith("All 3 trials failed : RuntimeError: the loss is not finite")
        assert "there is nothing to compare with" in words(page)
        assert words(page).count("loop.py:88") >= 4


def test_a_failed_default_and_an_objective_that_is_null(tmp_path: pathlib.Path) -> None:
    search, rng = make_search(tmp_path, ONE), random.Random(2)
    add(search, search.space.default() or {}, effect_of(rng), "default", status="failed")
    for _ in range(3):
        add(search, draws(search, rng), effect_of(rng))
    empty = add(search, draws(search, rng), effect_of(rng))
    for entry in empty.history:
        entry["metrics"]["mean_auc"] = None
        entry["metrics"]["tasks"]["buy"]["auc"] = None
    empty.status, empty.reason = "failed", "the objective is null on its evaluation rows"
    page = written(search, tmp_path)
    assert verdict(page).startswith("Not proven : trial")
    assert "the objective is null on its evaluation rows" in words(page)


def test_the_default_stays_where_none_is_better(tmp_path: pathlib.Path) -> None:
    page = written(small(tmp_path, fixed({0: -0.02})), tmp_path)
    assert verdict(page).startswith("The default stays : no other finished trial is better. mean_auc 0.7000")
    assert "Recommended configuration" not in sections(page)


def test_a_weighted_mean_conditions_and_ranges_of_all_kinds(tmp_path: pathlib.Path) -> None:
    space = {
        "train.dense_optimizer.lr": {"log_uniform": [1e-4, 1e-2]},
        "tables.user.rows": {"integer": [4, 64]},
        "model.order_loss.alpha": {"uniform": [0, 2]},
        "model.coupler.type": {"choice": ["ait", "none"]},
        "tasks.buy.weight": {"uniform": [0.5, 4], "when": {"model.coupler.type": "ait"}},
    }
    mean = {"mean": {"click.auc": 1, "buy.logloss": 2}, "subject_to": {"cart.auc": {"max_drop": 0.01}}}
    page = written(filled(tmp_path, {"space": space, "objective": mean}, 26), tmp_path)
    assert "the weighted mean of 1 × click.auc, 2 × buy.logloss, where cart.auc drops at most 0.01" in words(page)
    assert {"Alpha", "Loss weights", "All fields together"} <= set(sections(page))
    assert sum("weighted mean against cart.auc" in name for name in drawings(page)) == 2  # one of them for phones
    assert page.count(">–</text>") == 1  # only one field is not used by some trials


def test_outliers_do_not_set_the_axes() -> None:
    values = [0.7, 0.701, 0.702, 0.703, 0.704, 0.705, 0.1]
    assert limits(values)[0] > 0.6
    assert limits(values, [0.1])[0] < 0.1
    assert limits([0.5])[0] < 0.5 < limits([0.5])[1]
    assert limits([0.0, 0.0])[0] < limits([0.0, 0.0])[1]


def test_the_result_of_a_search_comes_with_its_report(tmp_path: pathlib.Path) -> None:
    search = filled(tmp_path, PLAIN, 10)
    result = write_result(search, RunFolder.open(str(tmp_path)), {"searched_s": 12.0})
    assert pathlib.Path(result["report"]).read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "result.json").read_text())["report"] == result["report"]
    assert BASE["name"] in words(pathlib.Path(result["report"]).read_text())


def test_the_limits_of_the_default_are_judged_on_its_repeats_too(tmp_path: pathlib.Path) -> None:
    def effect(trial: Trial) -> dict[str, float]:
        default = trial.config["train"]["dense_optimizer"]["lr"] == 0.001
        order = 0.09 if default and trial.seed == 1 else 0.05  # over the limit in its own run only
        return {"click": 0.75, "cart": 0.75, "buy": 0.75 + 0.0001 * trial.seed * (1 if default else -1), "order": order}

    search = small(tmp_path, effect, ONE)
    assert keeps_limits(search, search.trial_store.trials[0])
    assert "unlike the default" not in verdict(written(search, tmp_path))
    assert result_of(search, tmp_path)["recommended"] == 0
    for trial in search.trial_store.of_kind("repeat"):
        trial.status = "failed"
    assert "unlike the default" in verdict(written(search, tmp_path))
    assert result_of(search, tmp_path)["recommended"] == 1


def test_bars_of_repeats_lie_within_the_frame(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[tuple[Axes, float, float]] = []
    errorbar = Axes.errorbar

    def barred(ax: Axes, x: Any, y: Any, yerr: Any, xerr: Any, **look: Any) -> Any:
        frames.append((ax, y[0] - yerr[0], y[0] + yerr[0]))
        return errorbar(ax, x, y, yerr, xerr, **look)

    monkeypatch.setattr(Axes, "errorbar", barred)
    search = small(tmp_path, fixed({0: 0.002, 2: 0.05, 3: -0.05}))
    assert objective_by_trial(View(search, result_of(search, tmp_path)))
    assert len(frames) == 4
    for ax, low, high in frames:
        assert ax.get_ylim()[0] < low < high < ax.get_ylim()[1]


def test_numbers_of_parallel_axes_stand_below_and_above_them(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_at: dict[str, tuple[float, float]] = {}
    annotate = Axes.annotate

    def annotated(ax: Axes, words: str, at: tuple[float, float], xytext: tuple[float, float], **look: Any) -> Any:
        assert look["bbox"]["facecolor"] == PAPER
        written_at[words] = (at[1], xytext[1])
        return annotate(ax, words, at, xytext=xytext, **look)

    monkeypatch.setattr(Axes, "annotate", annotated)
    search = filled(tmp_path, PLAIN, 12)
    view = View(search, result_of(search, tmp_path))
    assert parallel(view, "mean_auc", list(SPACE))
    assert {"0.0001", "0.01", "0.001", "0.1", "[16]", "[32]"} <= set(written_at)
    numbers = [place for words, place in written_at.items() if not words.startswith("[")]
    assert len(numbers) == 6
    assert all((height, side < 0) in ((0, True), (1, False)) for height, side in numbers)


def test_the_settings_of_the_default_stand_at_the_top(one: str) -> None:
    assert "default: preset shared_bottom · learning rates adam 0.001, tables rowwise_adagrad 0.03 · " in words(one)
