"""Labels under a condition (`given`) and labels that multiply along the funnel (docs/formulas.md §1.4, §7, §8)."""

import math
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.config.slots.coupler import ESM2, Product
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.contract import required_columns
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import ConfigError, DataError
from tests.helpers.small_data import make_config, write_file

PLACE = Place("part-0.parquet", 0)
Columns = dict[str, list[Any]]
N = None


def config_of(tasks: dict[str, Any], subset: list[str] | None = None, coupler: Any = None, **data: Any) -> Config:
    """A configuration whose labels are multiplied where a coupler is given."""
    config = make_config(tasks=tasks, **data)
    update: dict[str, Any] = {"tasks_subset": subset}
    if coupler is not None:
        update["model"] = config.model.model_copy(update={"coupler": coupler})
    return config.model_copy(update=update)


def products(tasks: dict[str, Any], subset: list[str] | None = None, **data: Any) -> Config:
    return config_of(tasks, subset, Product(type="product"), **data)


def table(columns: Columns) -> pa.Table:
    rows = len(next(iter(columns.values())))
    flags = {name for name in columns if name.startswith("seen")}
    typed = {n: pa.array(c, pa.bool_() if n in flags else pa.float64()) for n, c in columns.items()}
    return pa.table({"item": pa.array([1] * rows), **typed})


def labels(config: Config, columns: Columns) -> dict[str, list[float | None]]:
    """The labels of the block by task, None where not observed; only the columns that the maker asks for are there."""
    maker = BlockMaker(config, evaluation=False)
    block = maker(table(columns).select(maker.raw_columns()), PLACE, 0)
    names = [n.removeprefix("label:") for n in block.column_names if n.startswith("label:")]
    assert names == list(config.active_tasks())
    return {n: [N if math.isnan(v) else v for v in block[f"label:{n}"].to_pylist()] for n in names}


# Conditions

GIVEN = {"click": {}, "conversion": {"label": "buy", "given": "click"}, "buy": {}}
CLICKS: Columns = {"click": [1, 1, 1, 0, 0, N, N, 1], "buy": [1, 0, N, 0, 1, 0, 1, math.nan]}


def test_a_conditional_task_counts_where_its_condition_is_observed_and_one() -> None:
    found = labels(config_of(GIVEN), CLICKS)
    assert found["conversion"] == [1, 0, N, N, N, N, N, N]
    assert found["click"] == [1, 1, 1, 0, 0, N, N, 1]  # the others stay as they are
    assert found["buy"] == [1, 0, N, 0, 1, 0, 1, N]


def test_the_condition_is_observed_as_its_task_says() -> None:
    tasks = {"click": {"observed": "seen"}, "conversion": {"label": "buy", "given": "click"}}
    columns = {"click": [1, 1, 1, 0], "seen": [True, False, N, True], "buy": [1, 1, 0, 1]}
    assert labels(config_of(tasks), columns)["conversion"] == [1, N, N, N]


def test_the_tasks_own_observed_column_counts_too() -> None:
    tasks = {"click": {}, "conversion": {"label": "buy", "given": "click", "observed": "seen"}}
    columns = {"click": [1, 1, 0, 1], "seen": [True, False, True, N], "buy": [1, 1, 1, 0]}
    assert labels(config_of(tasks), columns)["conversion"] == [1, N, N, N]


def test_a_number_may_have_a_condition() -> None:
    tasks = {"buy": {}, "spend": {"kind": "real", "transform": "log1p", "given": "buy"}}
    # What stands where the condition is not met is not looked at: -1 is no spend.
    assert labels(config_of(tasks), {"buy": [1, 0, 1, N], "spend": [2.5, -1, 0, -7]})["spend"] == [2.5, N, 0, N]


def test_conditions_may_follow_each_other() -> None:
    tasks = {"click": {}, "cart": {"given": "click"}, "buy": {"given": "cart"}}
    columns = {"click": [1, 1, 1, 0, N], "cart": [1, 1, 0, 1, 1], "buy": [1, 0, 1, 1, 1]}
    found = labels(config_of(tasks), columns)
    assert found["cart"] == [1, 1, 0, N, N]
    assert found["buy"] == [1, 0, N, N, N]  # a cart without its click does not count as a cart


def test_a_condition_outside_the_subset_is_read_all_the_same() -> None:
    tasks = {**GIVEN, "click": {"observed": "seen", "truth": "p"}}
    config = config_of(tasks, ["conversion"])
    assert BlockMaker(config, evaluation=False).raw_columns() == ["item", "click", "seen", "buy"]
    assert BlockMaker(config, evaluation=True).raw_columns() == [
        "item",
        "click",
        "seen",
        "buy",
    ]  # its truth is not asked
    used = ["features.item", "tasks.click.label", "tasks.click.observed", "tasks.conversion.label"]
    assert [c.used_by for c in required_columns(config)] == used
    columns = {**CLICKS, "seen": [True] * 7 + [False]}
    assert labels(config, columns) == {"conversion": labels(config_of(tasks), columns)["conversion"]}
    assert labels(config_of(tasks, ["buy"]), {"buy": [1]}) == {"buy": [1]}  # and no condition, no click


def test_a_broken_label_of_the_condition_stops_the_job() -> None:
    with pytest.raises(DataError, match=r"`click` \(tasks\.click\.label\), row 1: the label is 2\.0, expected 0 or 1"):
        labels(config_of(GIVEN, ["conversion"]), {"click": [1, 2], "buy": [0, 0]})


def test_a_broken_label_under_the_condition_stops_the_job() -> None:
    with pytest.raises(DataError, match=r"`buy` \(tasks\.conversion\.label\), row 2: the label is 3\.0"):
        labels(config_of(GIVEN, ["conversion"]), {"click": [0, N, 1], "buy": [3, 3, 3]})


# Products

FUNNEL = {"click": {}, "cart": {"parent": "click"}, "buy": {"parent": "cart"}}
MASKED = {"click": {}, "buy": {"parent": "click", "observed": "seen"}}


def test_without_a_coupler_of_products_the_labels_are_those_of_the_files() -> None:
    columns = {"click": [0, 1, N], "cart": [1, N, 1], "buy": [1, 1, 1]}
    assert labels(config_of(FUNNEL), columns) == {"click": [0, 1, N], "cart": [1, N, 1], "buy": [1, 1, 1]}


def test_a_childs_label_is_multiplied_by_its_parents() -> None:
    columns = {"click": [0, 0, 1, 1, 1, N], "cart": [0, 1, 0, 1, 1, 1], "buy": [1, 1, 1, 0, 1, 1]}
    found = labels(products(FUNNEL), columns)
    assert found["click"] == [0, 0, 1, 1, 1, N]
    assert found["cart"] == [0, 0, 0, 1, 1, N]
    assert found["buy"] == [0, 0, 0, 0, 1, N]  # from the top: nothing after a missing click is known


def test_esm2_multiplies_both_children_of_the_click() -> None:
    tasks = {"click": {}, "cart": {"parent": "click"}, "buy": {"parent": "click"}}
    columns = {"click": [1, 1, 0, 1], "cart": [0, N, 1, 1], "buy": [1, 1, 1, 0]}
    found = labels(config_of(tasks, coupler=ESM2(type="esm2")), columns)
    assert found["cart"] == [0, N, 0, 1]  # a missing action drops its own term alone
    assert found["buy"] == [1, 1, 0, 0]


EVERY: list[tuple[Any, ...]] = list(product([0, 1, N], [0, 1, N], [True, False, N]))


def test_every_combination_of_click_buy_and_mask() -> None:
    found = labels(
        products(MASKED), dict(zip(("click", "buy", "seen"), map(list, zip(*EVERY, strict=True)), strict=True))
    )
    for (click, buy, seen), y in zip(EVERY, found["buy"], strict=True):
        if click is None or not seen:
            expected = N
        elif click == 0:
            expected = 0  # by definition, also where the column is null
        else:
            expected = buy
        assert y == expected, (click, buy, seen)


def test_the_delay_trap_a_null_without_a_mask_is_never_a_zero() -> None:
    tasks = {"click": {}, "buy": {"parent": "click"}}
    columns = {"click": [0, 0, 1, 1, N], "buy": [N, math.nan, N, 1, N]}
    assert labels(products(tasks), columns)["buy"] == [N, N, N, 1, N]


def test_an_immature_row_counts_for_nothing_whatever_its_parent() -> None:
    columns = {"click": [0, 0, 1, 1], "buy": [0, N, 0, 1], "seen": [False] * 4}
    assert labels(products(MASKED), columns)["buy"] == [N] * 4


def test_a_zero_by_definition_goes_down_the_funnel() -> None:
    tasks = {
        "click": {},
        "cart": {"parent": "click", "observed": "seen_cart"},
        "buy": {"parent": "cart", "observed": "seen_buy"},
    }
    columns = {
        "click": [0, 0, 1, 1, 0],
        "cart": [N, N, 0, N, N],
        "seen_cart": [True, True, True, True, False],
        "buy": [N, N, N, N, N],
        "seen_buy": [True, False, True, True, True],
    }
    found = labels(products(tasks), columns)
    assert found["cart"] == [0, 0, 0, N, N]
    assert found["buy"] == [0, N, 0, N, N]


bits = st.sampled_from([0, 1])
maybe = st.sampled_from([0, 1, N])


@given(st.lists(st.tuples(maybe, bits, bits, st.booleans()), min_size=1, max_size=30))
def test_s4_a_buy_counts_only_through_its_product_with_the_click(rows: list[tuple[Any, ...]]) -> None:
    """Flipping the buy of rows without a click, or taking it away where the mask says that it is known, changes nothing."""
    click, buy, flip, seen = (list(c) for c in zip(*rows, strict=True))
    flipped = [1 - b if c == 0 and f else b for c, b, f in zip(click, buy, flip, strict=True)]
    gone = [N if c == 0 and f else b for c, b, f in zip(click, buy, flip, strict=True)]
    for tasks, others in ((MASKED, [flipped, gone]), ({"click": {}, "buy": {"parent": "click"}}, [flipped])):
        config = products(tasks)
        before = labels(config, {"click": click, "buy": buy, "seen": seen})
        for other in others:
            assert labels(config, {"click": click, "buy": other, "seen": seen}) == before


@given(st.lists(st.tuples(maybe, maybe, maybe), min_size=1, max_size=30))
def test_products_never_break_the_order_of_the_funnel(rows: list[tuple[Any, ...]]) -> None:
    click, cart, buy = (list(c) for c in zip(*rows, strict=True))
    found = labels(products(FUNNEL), {"click": click, "cart": cart, "buy": buy})
    for a, b in (("click", "cart"), ("cart", "buy")):
        assert all(p is not None and p >= c for p, c in zip(found[a], found[b], strict=True) if c is not None)


def test_a_parent_outside_the_subset_is_no_factor() -> None:
    columns = {"click": [0, 1, N], "cart": [1, 1, 1], "buy": [1, 0, 1]}
    assert labels(products(FUNNEL, ["cart", "buy"]), columns) == {"cart": [1, 1, 1], "buy": [1, 0, 1]}


def test_a_condition_is_the_product_whatever_the_subset() -> None:
    tasks = {**FUNNEL, "gift": {"given": "cart"}}
    columns = {"click": [1, 0, 1, N], "cart": [1, 1, 0, 1], "buy": [1, 1, 1, 1], "gift": [1, 1, 1, 1]}
    expected = [1, N, N, N]
    assert labels(products(tasks), columns)["gift"] == expected
    alone = products(tasks, ["gift"])
    assert BlockMaker(alone, evaluation=False).raw_columns() == ["item", "click", "cart", "gift"]
    assert labels(alone, columns) == {"gift": expected}
    plain = config_of(tasks, ["gift"])
    assert BlockMaker(plain, evaluation=False).raw_columns() == ["item", "cart", "gift"]
    assert labels(plain, columns) == {"gift": [1, 1, N, 1]}


def test_broken_labels_stop_the_job_where_they_count() -> None:
    tasks = {"click": {}, "buy": {"parent": "click"}}
    with pytest.raises(DataError, match=r"`buy` \(tasks\.buy\.label\), row 1: the label is 5\.0, expected 0 or 1"):
        labels(products(tasks), {"click": [1, 0], "buy": [1, 5]})
    assert labels(products(tasks), {"click": [1, N], "buy": [1, 5]})["buy"] == [1, N]


# The sample and `raymtl check` count the same labels

LOGS: Columns = {"click": [1, 1, 1, 1, 0, 0, 0, N], "buy": [1, 0, 0, N, 1, 0, N, 1], "seen": [True] * 7 + [False]}


def test_the_sample_counts_them(tmp_path: Any) -> None:
    write_file(tmp_path, table(LOGS))
    conditional = config_of(GIVEN, ["conversion"], path=str(tmp_path))
    rates = sample_base_rates(conditional, plan_input(conditional, "train"))
    assert rates == {"conversion": pytest.approx((1 + 0.5) / (3 + 1))}
    multiplied = products(MASKED, path=str(tmp_path))
    rates = sample_base_rates(multiplied, plan_input(multiplied, "train"))
    assert rates["buy"] == pytest.approx((1 + 0.5) / (6 + 1))


def test_the_sample_says_why_there_is_none(tmp_path: Any) -> None:
    write_file(tmp_path, table({"click": [0, N], "buy": [1, 0]}))
    config = config_of(GIVEN, path=str(tmp_path))
    with pytest.raises(DataError, match=r"\(column `buy`, given `click`: only rows where that is 1\); choose days"):
        sample_base_rates(config, plan_input(config, "train"))
    write_file(tmp_path, table({"click": [N, N], "buy": [1, 0]}))
    config = products({"click": {"base_rate": 0.1}, "buy": {"parent": "click"}}, path=str(tmp_path))
    with pytest.raises(DataError, match=r"\(column `buy`, only rows where the parent `click` is observed\)"):
        sample_base_rates(config, plan_input(config, "train"))


def test_the_check_counts_conditional_labels(tmp_path: Any, in_process: Any) -> None:
    write_file(tmp_path, table(LOGS))
    for subset in (["conversion"], None):
        part = check_data(config_of(GIVEN, subset, path=str(tmp_path))).parts["train"]
        conversion = part.tasks["conversion"].all
        assert (conversion.rows, conversion.observed, conversion.mean) == (8, 3, pytest.approx(1 / 3))
        assert list(part.tasks) == (subset or list(GIVEN))
        assert part.problems == []


def test_the_check_counts_products_and_the_order_of_the_files(tmp_path: Any, in_process: Any) -> None:
    write_file(tmp_path, table(LOGS))
    part = check_data(products(MASKED, path=str(tmp_path))).parts["train"]
    buy = part.tasks["buy"].all
    assert (buy.observed, buy.mean) == (6, pytest.approx(1 / 6))
    (edge,) = part.funnel
    assert (edge.rows, edge.positives, edge.violations) == (5, 2, 1)
    (warning,) = [w for w in part.warnings if "tasks.buy.parent" in w]
    assert warning.startswith("tasks.buy.parent: 1 of 2 rows with buy = 1 have click = 0 (50.0%)")
    assert warning.endswith("so buy counts as 0 in these rows: check the labels")


def test_labels_that_only_a_product_makes_a_funnel_are_none_without_it(tmp_path: Any, in_process: Any) -> None:
    write_file(tmp_path, table({"click": [0, 0, 1, 0], "buy": [1, 1, 1, 0]}))
    tasks = {"click": {}, "buy": {"parent": "click"}}
    assert check_data(products(tasks, path=str(tmp_path))).problems == []
    report = check_data(config_of(tasks, path=str(tmp_path)))
    assert report.problems == []  # training does not check it either
    assert any("this is not a funnel" in w for w in report.warnings)


def test_the_check_continues_without_the_column_of_a_condition(tmp_path: Any, in_process: Any) -> None:
    write_file(tmp_path, table(LOGS))
    write_file(tmp_path, table(LOGS).drop_columns(["click"]), name="part-1.parquet")
    report = check_data(config_of(GIVEN, ["conversion", "buy"], path=str(tmp_path)))
    assert any("part-1.parquet: column `click` (tasks.click.label) is missing" in p for p in report.problems)
    tasks = report.parts["train"].tasks
    assert (tasks["conversion"].all.rows, tasks["buy"].all.rows) == (8, 16)


def test_the_check_finds_broken_labels_of_a_condition(tmp_path: Any, in_process: Any) -> None:
    write_file(tmp_path, table({"click": [1, 2, 0], "buy": [0, 1, 7]}))
    report = check_data(config_of(GIVEN, ["conversion"], path=str(tmp_path)))
    (problem,) = [p for p in report.problems if "tasks." in p]
    assert "column `click` (tasks.click.label): 1 label is not 0 or 1; the first is 2.0 in row 1" in problem
    assert report.parts["train"].tasks["conversion"].all.observed == 1


def test_broken_labels_are_no_labels_in_the_check(tmp_path: Any, in_process: Any) -> None:
    write_file(tmp_path, table({"click": [1, 1, 0, 0], "buy": [0, 5, 7, N], "seen": [True] * 4}))
    found = {}
    for config in (config_of(GIVEN, path=str(tmp_path)), products(MASKED, path=str(tmp_path))):
        report = check_data(config)
        found |= {b.used_by: b.count for b in report.parts["train"].broken}
        name = list(config.active_tasks())[1]
        found[name] = report.parts["train"].tasks[name].all
        assert found[name].mean == 0
    assert (found["tasks.conversion.label"], found["conversion"].observed) == (1, 1)
    assert (found["tasks.buy.label"], found["buy"].observed) == (2, 2)


# The configuration

TEXT = """
data: {path: /logs, train: {start: 2026-01-01, end: 2026-01-03}}
features: {age: {kind: dense}}
tasks: {click: {}, buy: {}, views: {kind: count}}
model: {preset: shared_bottom}
"""


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides, text=TEXT)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["tasks.buy.given=clik"],
            "tasks.buy.given is `clik`, which is not one of the tasks `click`, `buy`, `views`; did you mean `click`?",
        ),
        (["tasks.buy.given=buy"], "tasks.buy.given is the task itself; set it to the task that must have happened"),
        (["tasks.click.given=buy"], "tasks.click is listed before its condition `buy`; move `buy` before `click`"),
        (["tasks.likes={given: views}"], "tasks.likes.given is `views`, a `count` task; only a `binary` one can be"),
        (
            ["tasks.cart={given: buy, parent: click}"],
            "tasks.cart has both `parent` and `given`; a conditional task cannot be part of the funnel",
        ),
        (
            ["tasks.buy.given=click", "tasks.gift={parent: buy}"],
            "tasks.gift.parent is `buy`, which has `given`; a conditional task cannot be part of the funnel",
        ),
    ],
)
def test_conditions_that_cannot_be(overrides: list[str], says: str) -> None:
    assert says in refused(*overrides)


def test_conditions_that_can_be() -> None:
    config = load_config(
        None,
        ["tasks.buy.given=click", "tasks.views.given=buy", "tasks.gift={given: buy}", "tasks_subset=[gift]"],
        text=TEXT,
    )
    assert config.active_tasks()["gift"].given == "buy"


def test_labels_are_float32_whatever_their_columns() -> None:
    raw = pa.table({"item": [1, 2], "click": pa.array([True, False]), "buy": pa.array([1, None], pa.int8())})
    for config in (config_of(GIVEN), products({"click": {}, "buy": {"parent": "click"}})):
        block = BlockMaker(config, evaluation=False)(raw, PLACE, 0)
        assert all(block[f"label:{n}"].type == pa.float32() for n in config.active_tasks())
        assert np.isnan(block["label:buy"].to_numpy()).tolist() == [False, True]
