"""Random rows through every transform of a feature: as training reads them, as scoring does, and as an exported program does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raymtl.config.features import weighted
from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.ids.hashing import cross, to_int64
from raymtl.data.ids.id_map import IdMap, save_map
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.serving.export import _dims, _example
from raymtl.serving.model import feature_sides
from raymtl.serving.plan import plan_scoring
from raymtl.serving.rows import tensors
from raymtl.serving.rules import Rules
from raymtl.serving.scorer import UnitReader
from raymtl.storage.folder import Folder
from tests.helpers.small_data import make_config, write_file

EDGES = [-1e4, -0.7, 0.0, 0.1, 0.7, 3.3, 1000.1]

FEATURES: dict[str, dict[str, Any]] = {
    "number": {"kind": "dense"},
    "scaled": {"kind": "dense", "mean": 0.3, "std": 7.1, "fill": -0.7},
    "log1p": {"kind": "dense", "transform": "log1p", "mean": 2.0, "std": 3.0},
    "clip": {"kind": "dense", "clip": [-0.7, 1000.1]},
    "clip_low": {"kind": "dense", "clip": [0.1, None], "transform": "log1p", "std": 2.5},
    "clip_high": {"kind": "dense", "clip": [None, 3.3], "mean": 1.0, "side": "user"},
    "vector": {"kind": "vector", "width": 3},
    "vector_user": {"kind": "vector", "width": 5, "side": "user"},
    "bucket": {"kind": "bucket", "edges": EDGES},
    "bucket_hash": {"kind": "bucket", "edges": EDGES[2:], "side": "user"},
    "bucket_null": {"kind": "bucket", "edges": EDGES, "null_id": 8},
    "cross_user": {"kind": "cross", "of": ["mapped", "bucket_hash"]},
    "cross_both": {"kind": "cross", "of": ["string", "integer", "bucket"]},
    "cross_all": {"kind": "cross", "of": ["double", "mapped", "direct", "string"]},
    "cross_map": {"kind": "cross", "of": ["mapped", "direct"]},
    "integer": {"kind": "id", "side": "user"},
    "double": {"kind": "id"},
    "string": {"kind": "id", "table": "string"},
    "direct": {"kind": "id"},
    "mapped": {"kind": "id", "side": "user"},
    "string_null": {"kind": "id", "null_id": "unknown", "column": "string"},
    "direct_null": {"kind": "id", "null_id": 49, "side": "user", "column": "direct"},
    "cross_null": {"kind": "cross", "of": ["string_null", "bucket_null", "direct_null", "integer"]},
    "tags": {"kind": "ids", "weights": "tag_weights", "max_length": 4},
    "topics": {"kind": "ids", "weights": "topics", "side": "user"},
    "steps": {"kind": "sequence", "max_length": 5},
    "gap": {"kind": "sequence_dense", "of": "steps", "transform": "log1p", "mean": 2.0, "std": 3.0, "fill": -0.7},
    "dwell": {"kind": "sequence_dense", "of": "steps", "clip": [-0.7, 1000.1]},
}
TABLES: dict[str, dict[str, Any]] = {
    "bucket_hash": {"rows": 12, "id_space": "hash"},
    "direct": {"rows": 50, "id_space": "direct"},
    "direct_null": {"rows": 50, "id_space": "direct"},
    "mapped": {"rows": 900, "id_space": "map"},
    "cross_map": {"rows": 40_000, "id_space": "map"},
}
BOUND = 1e-7
"""Largest difference of numbers, relative to the larger of 1 and the number; rows of tables are equal."""

LISTS = ("ids", "sequence", "sequence_dense")

Found = Mapping[str, np.ndarray]
"""By feature: [N] int64, the row of its table, or -1 for "looks up nothing"; [N] float32 for a number, [N, W] for a vector; [V]
for lists, the weights of IDs as `<name>.weights`. Lists of exported programs are cut behind their rules: see `cut`."""


def config_of(root: Path) -> Config:
    """All transforms."""
    names = (
        *("cross_user", "cross_both", "cross_all", "cross_null", "integer", "double", "string", "string_null"),
        *("tags", "topics", "steps"),
    )
    big = {name: {"rows": 10**9} for name in names}
    return make_config(FEATURES, tables=TABLES | big, path=str(root))


def random_rows(config: Config, rows: int, seed: int = 0) -> pa.Table:
    """Random values, spread over magnitudes; a tenth of each column is null."""
    random = np.random.default_rng(seed)
    values: Any
    lists = random_lists(random, rows)
    columns: dict[str, pa.Array] = {"click": pa.array(random.integers(0, 2, rows, np.int8)), **lists}
    for name, feature in config.features.items():
        if feature.kind == "cross" or feature.column is not None or name in lists:
            continue
        if feature.kind == "vector":
            values = random.normal(size=rows * feature.width) * 10 ** random.uniform(-3, 5, rows * feature.width)
            there = pa.array(random.random(rows) < 0.1)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values), feature.width, mask=there)
            continue
        if feature.kind in ("dense", "bucket"):
            values = random.normal(size=rows) * 10 ** random.uniform(-3, 5, rows)
            values[::7] = random.choice(EDGES, len(values[::7]))
        elif name == "double":
            values = random.integers(-(2**53), 2**53, rows, endpoint=True).astype(np.float64)
        elif name == "string":
            values = np.char.add("i", random.integers(0, 5000, rows).astype(str))
        else:
            high = {"direct": 50, "mapped": 1500}.get(name, 2**62)
            values = random.integers(0, high, rows)
        columns[name] = pa.array(values, mask=random.random(rows) < 0.1)
    return pa.table(columns)


def random_lists(random: np.random.Generator, rows: int) -> dict[str, pa.Array]:
    """Lists of up to 8 IDs with weights, and up to 8 steps with numbers; a tenth of the numbers is null, and of the rows a tenth
    has no lists at all."""

    def spread(count: int) -> pa.Array:
        numbers = random.normal(size=count) * 10 ** random.uniform(-3, 5, count)
        numbers[::7] = random.choice(EDGES, len(numbers[::7]))
        return pa.array(numbers, mask=random.random(count) < 0.1)

    def offsets() -> pa.Array:
        lengths = random.integers(0, 9, rows)
        none = random.random(rows) < 0.1
        lengths[none] = 0
        ends = np.cumsum(lengths, dtype=np.int32)
        return pa.array(np.concatenate([[np.int32(0)], ends]), mask=np.append(none, False))

    columns, (bags, steps, maps) = {}, (offsets() for _ in range(3))
    ids, visited, keys = (random.integers(0, 2**62, int(of[-1].as_py())) for of in (bags, steps, maps))
    columns["tags"] = pa.ListArray.from_arrays(bags, pa.array(ids))
    columns["tag_weights"] = pa.ListArray.from_arrays(bags, pc.abs(spread(len(ids))))
    columns["steps"] = pa.ListArray.from_arrays(steps, pa.array(visited))
    for name in ("gap", "dwell"):
        columns[name] = pa.ListArray.from_arrays(steps, spread(len(visited)))
    columns["topics"] = pa.MapArray.from_arrays(maps, pa.array(keys), pc.abs(spread(len(keys))))
    return columns


def some_maps() -> dict[str, IdMap]:
    """Half of the IDs of the feature `mapped`, and half of its pairs with `direct`."""
    pairs = cross(np.divmod(np.arange(0, 1500 * 50, 2), 50))
    ids = {"mapped": np.arange(0, 1500, 2), "cross_map": pairs}
    return {
        name: IdMap.of(config["rows"], ids[name], np.arange(1, len(ids[name]) + 1), *np.ones((2, len(ids[name]))))
        for name, config in TABLES.items()
        if name in ids
    }


def read(config: Config, raw: pa.Table, root: Path) -> Found:
    """What reading makes of the rows, as training has it."""
    maps = {n: save_map(id_map, Folder.open(str(root)), f"{n}.parquet") for n, id_map in some_maps().items()}
    block = BlockMaker(config, evaluation=False, maps=maps)(raw, Place("part-0.parquet", 0), 0)
    found = {}
    for name, feature in config.features.items():
        if feature.kind == "dense":
            found[name] = block.column(f"dense:{name}").to_numpy()
        elif feature.kind == "vector":
            found[name] = (
                block.column(f"vector:{name}").combine_chunks().flatten().to_numpy().reshape(-1, feature.width)
            )
        elif feature.kind in LISTS:
            role = "numbers" if feature.kind == "sequence_dense" else "ids"
            found[name] = block.column(f"{role}:{name}").combine_chunks().flatten().to_numpy()
        else:
            found[name] = block.column(f"id:{name}").combine_chunks().fill_null(-1).to_numpy()
    for name in weighted(config.features):
        found[f"{name}.weights"] = block.column(f"weights:{name}").combine_chunks().flatten().to_numpy()
    return found


def scored(config: Config, raw: pa.Table, root: Path) -> Found:
    """What scoring gives its model, from a file with the rows."""
    write_file(root, raw, group_rows=100_003)
    plan = plan_scoring(config, str(root), None, ["click"])
    reader = UnitReader(config, plan, {n: IdLookup.build(m.ids, m.rows) for n, m in some_maps().items()})
    sides = {side: {n: config.features[n] for n in names} for side, names in feature_sides(config).items()}
    parts: dict[str, list[np.ndarray]] = {}
    for rows in (rows for output in plan.outputs for rows in reader.read(output)):
        users = pa.table(rows.users).take(pa.array(rows.index)).combine_chunks()
        of_users = _numpy(tensors({n: users.column(n).chunk(0) for n in users.column_names}, sides["user"]))
        for name, values in _rows_of({**of_users, **_numpy(tensors(rows.items, sides["item"]))}, config).items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


class _Transforms(torch.nn.Module):
    """The rules of both sides, as in an exported program."""

    def __init__(self, config: Config):
        super().__init__()
        sides = feature_sides(config)
        maps = some_maps()
        self.user, self.item = (Rules(config, sides[side], maps) for side in ("user", "item"))

    def forward(self, raw: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.item(self.user(raw))


def exported(config: Config, raw: pa.Table, root: Path) -> Found:
    """What an exported program makes of the values that a server sends."""
    names = [name for side in feature_sides(config).values() for name in side]
    example = _example(config, names, 3)
    dims = _dims(config, example, torch.export.Dim("candidates", min=1))
    torch.export.save(torch.export.export(_Transforms(config), (example,), dynamic_shapes=(dims,)), root / "rules.pt2")
    sent = {}
    for name in example:
        if name.endswith((".present", ".lengths", ".weights")):
            continue
        column = raw.column(config.features[name].column or name).combine_chunks()
        if config.features[name].kind in LISTS:
            sent |= sent_list(name, column, config, raw)
        elif f"{name}.present" in example:
            ids = to_int64(column)
            sent[name] = torch.tensor(ids.fill_null(0).to_numpy())
            sent[f"{name}.present"] = torch.tensor(ids.is_valid().to_numpy(zero_copy_only=False))
        elif pa.types.is_fixed_size_list(column.type):
            filled = [[np.nan] * column.type.list_size if row is None else row for row in column.to_pylist()]
            sent[name] = torch.tensor(np.array(filled, np.float32))
        else:
            sent[name] = torch.tensor(column.to_numpy(zero_copy_only=False).astype(np.float32))
    made = torch.export.load(root / "rules.pt2").module()({name: sent[name] for name in example})
    return cut(_rows_of(_numpy(made), config), _numpy(made), config)


def sent_list(name: str, column: pa.Array, config: Config, raw: pa.Table) -> dict[str, torch.Tensor]:
    """A list as a server sends it, with NaN for null numbers."""

    def floats(numbers: pa.Array) -> torch.Tensor:
        return torch.tensor(numbers.to_numpy(zero_copy_only=False).astype(np.float32))

    feature = config.features[name]
    if feature.kind == "sequence_dense":
        return {name: floats(column.flatten())}
    is_map = pa.types.is_map(column.type)
    ids = column.keys if is_map else column.flatten()
    lengths = np.diff(column.offsets.to_numpy()).astype(np.int64)
    sent = {name: torch.tensor(ids.to_numpy()), f"{name}.lengths": torch.tensor(lengths)}
    if name in weighted(config.features):
        weights = column.items if is_map else raw.column(feature.weights).combine_chunks().flatten()
        sent[f"{name}.weights"] = floats(weights)
    return sent


def cut(found: Found, raw: Mapping[str, np.ndarray], config: Config) -> Found:
    """The lists as long as the model's lookup leaves them; `raw` has their lengths."""
    made = dict(found)
    for name, feature in config.features.items():
        of = feature.of if feature.kind == "sequence_dense" else name
        if feature.kind not in LISTS or (longest := config.features[of].max_length) is None:
            continue
        lengths = raw[f"{of}.lengths"]
        place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        kept = place < longest if feature.kind == "ids" else place >= np.repeat(lengths, lengths) - longest
        for key in (name, f"{name}.weights"):
            if key in made:
                made[key] = made[key][kept]
    return made


def _numpy(values: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in values.items()}


def _rows_of(raw: Mapping[str, np.ndarray], config: Config) -> Found:
    names = [*config.features, *(f"{name}.weights" for name in weighted(config.features))]
    return {
        name: np.where(raw[f"{name}.present"], raw[name], -1) if f"{name}.present" in raw else raw[name]
        for name in names
    }


def allowed(values: np.ndarray) -> float:
    """How large a difference of such values may be."""
    return BOUND if values.dtype == np.float32 else 0.0


def differences(found: Found, expected: Found) -> dict[str, float]:
    """By feature: the largest difference of numbers as `BOUND` has it, the number of different rows for IDs."""
    made = {}
    for name, values in expected.items():
        assert found[name].shape == values.shape
        assert found[name].dtype.kind == values.dtype.kind
        if values.dtype == np.float32:
            off = np.abs(found[name].astype(np.float64) - values) / np.maximum(1.0, np.abs(values))
            made[name] = float(off.max())
        else:
            made[name] = float((found[name] != values).sum())
    return made
