"""Weights of the IDs of lists, and numbers of the steps of histories, from the files to the batch."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymtl.config.root import Config
from raymtl.data.batch import Batch, Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.column_types import fits
from raymtl.data.contract import plain_types, required_columns, schema_faults
from raymtl.data.count_ids import Tally, count_raw
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.hashing import hash_rows, to_int64
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from raymtl.serving.rows import new_users
from tests.helpers.small_data import DAY, make_config, write_file

FEATURES: dict[str, dict[str, Any]] = {
    "tags": {"kind": "ids", "max_length": 3, "weights": "tag_weights"},
    "topics": {"kind": "ids", "weights": "topics", "column": "topics", "max_length": 2},
    "history": {"kind": "sequence", "max_length": 3},
    "gap": {"kind": "sequence_dense", "of": "history", "transform": "log1p", "mean": 1.0, "std": 2.0, "fill": -3.0},
    "dwell": {"kind": "sequence_dense", "of": "history", "column": "seconds", "clip": [0, 10]},
}
MAP = pa.map_(pa.string(), pa.float64())
ROWS: list[dict[str, Any]] = [
    {
        "tags": [1, 2],
        "tag_weights": [0.5, 2.0],
        "topics": [("a", 0.5), ("b", 2.0), ("c", 8.0)],
        "history": [7, 8],
        "gap": [1.0, 3.0],
        "seconds": [5, 99],
    },
    # a null ID takes what is beside it with it; a null weight is 0, a null number the fill
    {
        "tags": [None, 3, 4],
        "tag_weights": [9.0, None, 1.5],
        "topics": [("b", None)],
        "history": [None, 5, 6],
        "gap": [7.0, None, 0.0],
        "seconds": [1, 2, 3],
    },
    # too long: the first ones of a bag, the last ones of a history; a broken number that is cut off does no harm
    {
        "tags": [1, 2, 3, 4],
        "tag_weights": [1.0, 0.0, 3.0, -1.0],
        "topics": [],
        "history": [1, 2, 3, 4, 5],
        "gap": [math.nan, 1.0, 2.0, 3.0, 4.0],
        "seconds": None,
    },
    {"tags": [], "tag_weights": [], "topics": None, "history": [], "gap": [], "seconds": []},
    {"tags": None, "tag_weights": None, "topics": None, "history": None, "gap": None, "seconds": None},
]
TAGS = [([1, 2], [0.5, 2.0]), ([3, 4], [0.0, 1.5]), ([1, 2, 3], [1.0, 0.0, 3.0]), ([], []), ([], [])]
TOPICS = [(["a", "b"], [0.5, 2.0]), (["b"], [0.0]), ([], []), ([], []), ([], [])]
GAPS = [[(math.log1p(x) - 1) / 2 for x in xs] for xs in ([1.0, 3.0], [0.0], [2.0, 3.0, 4.0], [], [])]
GAPS[1] = [-3.0, *GAPS[1]]
DWELL = [[5.0, 10.0], [2.0, 3.0], [0.0, 0.0, 0.0], [], []]


def config_of(root: str = "/nowhere", features: dict[str, Any] = FEATURES, **data: Any) -> Config:
    return make_config(features, path=root, **data)


def raw_rows(rows: list[dict[str, Any]] = ROWS, **kinds: pa.DataType) -> pa.Table:
    types = {
        "tags": pa.list_(pa.int64()),
        "tag_weights": pa.list_(pa.float32()),
        "topics": MAP,
        "history": pa.list_(pa.int32()),
        "gap": pa.list_(pa.float64()),
        "seconds": pa.large_list(pa.int16()),
    } | kinds
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()}
    return pa.table({**columns, "click": pa.array([0] * len(rows), pa.int8())})


def block_of(raw: pa.Table, config: Config | None = None) -> pa.Table:
    return BlockMaker(config or config_of(), evaluation=False)(raw, Place("a.parquet", 10), 0)


def hashed(ids: list[Any]) -> list[int]:
    kind = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
    return hash_rows(to_int64(pa.array(ids, kind)).to_numpy(), 100).tolist()


@pytest.mark.parametrize("start", [0, 1])
def test_numbers_stay_with_their_ids(start: int) -> None:
    block = block_of(raw_rows([ROWS[2], *ROWS][1 - start :]).slice(1 if start else 0))
    for name, expected in (("tags", TAGS), ("topics", TOPICS)):
        assert block.column(f"ids:{name}").to_pylist() == [hashed(ids) for ids, _ in expected]
        assert block.column(f"weights:{name}").to_pylist() == [weights for _, weights in expected]
    for name, numbers in (("gap", GAPS), ("dwell", DWELL)):
        found = block.column(f"numbers:{name}").to_pylist()
        assert [len(row) for row in found] == [len(row) for row in numbers]
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(numbers), rtol=1e-6)


def test_a_batch_has_weights_beside_the_ids_and_padded_numbers() -> None:
    config, block = config_of(), block_of(raw_rows())
    chunks = [block.slice(0, 1), block.slice(1), block.slice(0, 0)]
    batch = Collator(config, 6, evaluation=False)(chunks)
    assert batch.sequences.keys() == ["tags", "topics", "history"]
    for name, expected in (("tags", TAGS), ("topics", TOPICS)):
        weights, ids = batch.id_weights[name], batch.sequences[name]
        assert weights.values().tolist() == [w for _, row in expected for w in row]
        assert weights.lengths().tolist() == ids.lengths().tolist() == [*(len(row) for _, row in expected), 0]
    padded = np.zeros((6, 6), np.float32)
    for n, (gaps, dwell) in enumerate(zip(GAPS, DWELL, strict=True)):
        padded[n, : len(gaps)], padded[n, 3 : 3 + len(dwell)] = gaps, dwell
    torch.testing.assert_close(batch.step_numbers, torch.tensor(padded))
    moved: Batch = batch.to(torch.device("cpu"))
    assert moved.id_weights.length_per_key() == [7, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"tag_weights": [1.0]},
            r"`tag_weights` \(features.tags.weights\), row 11: the length is 1 beside 2 IDs, expected that of the list in "
            "`tags`; write one number for each ID",
        ),
        ({"tag_weights": None}, "row 11: the length is null beside 2 IDs"),
        ({"tags": None}, "row 11: the length is 2 beside 0 IDs"),
        (
            {"tag_weights": [1.0, -0.5]},
            r"\(features.tags.weights\), row 11: the weight is -0.5, expected a finite number ≥ 0; write 0 or null for an ID",
        ),
        ({"tag_weights": [math.nan, 1.0]}, "row 11: the weight is nan"),
        ({"tag_weights": [1.0, math.inf]}, "row 11: the weight is inf"),
        ({"topics": [("a", -1.0)]}, r"`topics` \(features.topics.weights\), row 11: the weight is -1.0"),
        (
            {"gap": [1.0, 2.0, 3.0]},
            r"`gap` \(features.gap\), row 11: the length is 3 beside 2 IDs, expected that of the list in `history`",
        ),
        (
            {"gap": [1.0, math.inf]},
            r"`gap` \(features.gap\), row 11: the value is inf, expected a finite number; write null where the value of a",
        ),
        ({"gap": [math.nan, 1.0]}, "row 11: the value is nan"),
        ({"gap": [1.0, 1e39]}, "row 11: the value is inf"),
        ({"seconds": []}, r"`seconds` \(features.dwell\), row 11: the length is 0 beside 2 IDs"),
    ],
)
def test_what_does_not_fit_is_an_error(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=f"a.parquet: column .*{words}"):
        block_of(raw_rows([ROWS[4], ROWS[0] | change]))


def test_types_are_checked_before_anything_is_read() -> None:
    config = config_of()
    columns = required_columns(config)
    assert not schema_faults(raw_rows().schema, config, columns)
    maps = pa.schema([("history", MAP)])
    ((_, fault),) = schema_faults(maps, config, [c for c in columns if c.used_by == "features.history"])
    assert fault.endswith(
        "expected a list of integers or strings; write the IDs as a list, the oldest first, since a map has no order, or set "
        "features.history.column to another column"
    )
    assert fits(pa.map_(pa.int64(), pa.bool_()), "map")
    assert not fits(pa.map_(pa.int64(), pa.string()), "map")
    schema = pa.schema(
        [("tags", MAP), ("tag_weights", pa.list_(pa.string())), ("topics", pa.list_(pa.string()))]
        + [
            ("history", pa.list_(pa.int64())),
            ("gap", pa.float32()),
            ("seconds", pa.list_(pa.int8())),
            ("click", pa.int8()),
        ]
    )
    faults = [fault for _, fault in schema_faults(schema, config, columns)]
    assert faults == [
        "column `tags` (features.tags) has type map<string, double>, expected a list of integers or strings; set "
        "features.tags.weights to `tags` for a map from IDs to weights, or set features.tags.column to another column",
        "column `tag_weights` (features.tags.weights) has type list<item: string>, expected a list of numbers; write one list "
        "of numbers per row, or set features.tags.weights to another column",
        "column `topics` (features.topics) has type list<item: string>, expected a map from integers or strings to numbers; "
        "set features.topics.weights to the column with the list of weights, or set features.topics.column to another column",
        "column `gap` (features.gap) has type float, expected a list of numbers; write one list of numbers per row, or set "
        "features.gap.column to another column",
    ]
    types = plain_types([raw_rows().schema], columns)
    assert (types["topics"], types["gap"]) == ("map from string to number", "list of number")


def test_a_direct_table_takes_no_strings_of_a_map() -> None:
    config = make_config(FEATURES, tables={"topics": {"rows": 9, "id_space": "direct"}})
    ((_, fault),) = schema_faults(raw_rows().schema, config, required_columns(config))
    assert "column `topics` (features.topics) holds strings, but tables.topics.id_space is `direct`" in fault


def test_columns_without_values_are_empty() -> None:
    nulls = pa.nulls(3)
    empty = pa.table(dict.fromkeys(("tags", "tag_weights", "topics", "history", "gap", "seconds", "click"), nulls))
    block = block_of(empty)
    for name in ("ids:tags", "weights:tags", "ids:topics", "weights:topics", "numbers:gap", "numbers:dwell"):
        assert block.column(name).to_pylist() == [[]] * 3


def test_a_map_is_counted_by_its_keys() -> None:
    config = make_config(FEATURES, tables={"topics": {"rows": 9, "id_space": "map"}})
    tally = Tally()
    count_raw(config, raw_rows(), 3, {"topics": tally})
    assert sorted(tally.total().counts.tolist()) == [1, 2]  # a; b twice; c is cut off


def test_a_user_changes_with_the_numbers_that_are_read() -> None:
    config = config_of()
    rows = [ROWS[0], ROWS[0], ROWS[0] | {"gap": [1.0, 4.0]}, ROWS[0] | {"gap": [1.0, None]}, ROWS[2]]
    rows += [ROWS[2] | {"gap": [5.0, 6.0, 2.0, 3.0, 4.0]}]
    assert new_users(raw_rows(rows), config, ["history", "gap"]).tolist() == [True, False, True, True, True, False]
    rows = [ROWS[0], ROWS[0] | {"tag_weights": [0.5, 1.0]}, ROWS[2], ROWS[2] | {"tag_weights": [1.0, 0.0, 3.0, 9.0]}]
    assert new_users(raw_rows(rows), config, ["tags"]).tolist() == [True, True, True, False]


def test_since_makes_the_numbers_of_earlier_days_unknown(tmp_path: Path) -> None:
    features = FEATURES | {"gap": FEATURES["gap"] | {"since": "2026-01-02"}}
    write_file(tmp_path, raw_rows().drop_columns(["gap"]))
    config = config_of(str(tmp_path), features)
    plan, maker = plan_input(config, "train"), BlockMaker(config, evaluation=False)
    ((raw, _),) = read_fragment(plan.root, plan.units[0].fragments[0], maker.raw_columns(), 100)
    assert block_of(raw, config).column("numbers:gap").to_pylist() == [[-3.0] * len(row) for row in GAPS]


def test_check_measures_weights_and_numbers_and_counts_what_breaks_the_rules(tmp_path: Path, in_process: None) -> None:
    write_file(tmp_path, raw_rows([*ROWS, *ROWS]))
    report = check_data(config_of(str(tmp_path))).parts["train"]
    assert report.problems == []
    weights, topics, gap = (report.features[name] for name in ("tags.weights", "topics.weights", "gap"))
    assert (weights.kind, weights.column, weights.min, weights.max, weights.null_elements) == (
        *("numbers", "tag_weights", 0.0, 3.0, 2),
    )
    assert weights.mean == pytest.approx(8 / 6)
    assert (topics.column, topics.max, topics.null_elements, topics.elements) == ("topics", 2.0, 2, 6)
    assert report.features["topics"].kind == "map"
    assert gap.scaled_mean == pytest.approx(np.mean([math.log1p(x) for x in (1, 3, 0, 2, 3, 4)]))
    dwell = report.features["dwell"]
    assert (dwell.clipped, dwell.numbers) == (2, 14)
    bad = [*ROWS, ROWS[0] | {"gap": [1.0], "tag_weights": [-1.0, 2.0]}, ROWS[0] | {"topics": [("a", math.inf)]}]
    write_file(tmp_path, raw_rows(bad), name="part-1.parquet")
    problems = check_data(config_of(str(tmp_path))).parts["train"].problems
    assert sorted(problem.split(" in row")[0] for problem in problems) == [
        "column `gap` (features.gap): 1 length is not that of the list in `history`; the first is 1 beside 2 IDs",
        "column `tag_weights` (features.tags.weights): 1 weight is not a finite number ≥ 0; the first is -1.0",
        "column `topics` (features.topics.weights): 1 weight is not a finite number ≥ 0; the first is inf",
    ]
    assert DAY in problems[0]


@pytest.mark.parametrize(
    ("weight", "pooling", "remedy"),
    [
        (1, "sum", "remove the key"),
        (0.5, "mean", "remove the key"),
        (0.5, "sum", "check the job that writes them"),
        (0, "mean", "check the job that writes them"),
    ],
)
def test_equal_weights_are_a_warning(
    weight: float, pooling: str, remedy: str, tmp_path: Path, in_process: None
) -> None:
    lists = {"tag_weights": [weight] * 2, "topics": [("a", weight), ("b", weight)]}
    write_file(tmp_path, raw_rows([ROWS[0] | lists] * 3))
    config = make_config(FEATURES, path=str(tmp_path), tables={"tags": {"rows": 100, "pooling": pooling}})
    warnings = check_data(config).parts["train"].warnings
    assert f"features.tags.weights: all weights of column `tag_weights` are {weight}; {remedy}" in warnings
    maps = "check the job that writes the maps, or write the IDs alone as a list"
    assert f"features.topics.weights: all weights of column `topics` are {weight}; {maps}" in warnings


def steps_config(root: str, slot: str, length: int = 3) -> Config:
    """Two histories of the same steps."""
    features = {name: {"kind": "sequence", "max_length": length} for name in ("history", "action")}
    raw = config_of(root, features).model_dump(mode="json")
    raw["model"]["sequence"] = {
        "transformer": {"type": "transformer", "behaviours": {"seen": ["history", "action"]}},
        "dupn": {"type": "dupn", "item": ["history"], "properties": ["action"], "hidden": 4},
        "pooled": {"type": "pooled"},
    }[slot]
    return Config(**raw)


def steps_table(*rows: tuple[list[int | None] | None, list[int | None] | None]) -> pa.Table:
    histories, actions = (pa.array(list(column), pa.list_(pa.int64())) for column in zip(*rows, strict=True))
    return pa.table({"history": histories, "action": actions, "click": pa.array([0] * len(rows), pa.int8())})


GOOD = [([1, 2], [1, 2]), (None, []), ([1, None, 3, 4], [4, None, 6, 7])]


@pytest.mark.parametrize("slot", ["transformer", "dupn"])
@pytest.mark.parametrize("length", [2, 50])
@pytest.mark.parametrize(
    ("history", "action", "words"),
    [
        ([5, 6], [7], "1 long beside 2"),
        ([1, 2, 3], [7, 8], "2 long beside 3"),  # of one length if max_length is 2
        (None, [7], "1 long beside 0"),
        ([5, 6], [7, None], "null at other steps"),
        ([1, 2, 3], [7, None, 9], "null at other steps"),
        ([1, None, 3], [7, 8, None], "null at other steps"),
    ],
)
def test_histories_of_the_same_steps_are_in_step(
    history: Any, action: Any, words: str, length: int, slot: str, tmp_path: Path, in_process: None
) -> None:
    config = steps_config(str(tmp_path), slot, length)
    assert len(block_of(steps_table(*GOOD), config)) == 3
    table = steps_table(*GOOD, (history, action))
    rule = r"expected in step with features.history \(of the same length, and null at the same steps\); write one ID"
    with pytest.raises(DataError, match=rf"`action` \(features.action\), row 13: the list is {words}, {rule}"):
        block_of(table, config)
    write_file(tmp_path, table)
    (problem,) = check_data(config).parts["train"].problems
    assert problem.startswith("column `action` (features.action): 1 list is not in step with features.history (of the")
    assert f"the first is {words} in row 3" in problem


def test_histories_of_other_steps_need_not_be_in_step() -> None:
    table = steps_table(*GOOD, ([1, 2], [7]), ([5, 6], [7, None]))
    assert len(block_of(table, steps_config("/nowhere", "pooled"))) == 5


def test_histories_of_the_same_steps_may_begin_together(tmp_path: Path) -> None:
    raw = steps_config(str(tmp_path), "dupn").model_dump(mode="json")
    for name in ("history", "action"):
        raw["features"][name]["since"] = "2026-01-02"
    config = Config(**raw)
    write_file(tmp_path, steps_table(*GOOD).drop_columns(["history", "action"]))
    plan, maker = plan_input(config, "train"), BlockMaker(config, evaluation=False)
    ((table, _),) = read_fragment(plan.root, plan.units[0].fragments[0], maker.raw_columns(), 100)
    block = block_of(table, config)
    assert block.column("ids:history").to_pylist() == block.column("ids:action").to_pylist() == [[], [], []]
