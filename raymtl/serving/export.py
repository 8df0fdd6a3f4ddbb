"""Export a version as programs that need only torch: raw IDs and numbers in, predictions out.

`whole.pt2` takes the features of candidates with those of their users; `user.pt2`, which runs once per user, and `item.pt2`
split the work. `model.json` describes inputs and outputs.
"""

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymtl.config.features import BucketFeature, CrossFeature, DenseFeature, IdFeature, VectorFeature, columns_of
from raymtl.config.root import Config
from raymtl.data.writing import OutputFolder
from raymtl.errors import ConfigError
from raymtl.models.ranker import Ranker
from raymtl.serving.model import SCENARIO, Raw, ServedModel, can_split, feature_sides, load_ranker, served_tables
from raymtl.serving.rules import Rules
from raymtl.serving.split import State
from raymtl.serving.tables import Quantization, make_table
from raymtl.serving.version import Version, custom_slots, read_dense, read_id_map, read_table

FORMAT = 1
"""Number of the format of `model.json`."""
_USERS, _CANDIDATES, _VALUES = 2, 3, 7
"""Rows and values of the inputs for tracing; the program accepts any number."""
_FACTS = "model.json"
_PROGRAMS = ("whole.pt2", "user.pt2", "item.pt2")
_CROSSED = "crossed."
"""Prefix of the user's IDs in the state that crosses with those of items need."""
_INDEX = "user"
"""The item part's input with each candidate's user."""


class FullModel(nn.Module):
    """Raw features of both sides, one row per candidate -> predictions [B, O]."""

    def __init__(self, model: ServedModel, rules: Mapping[str, Rules]):
        super().__init__()
        self.model, self.rules = model, nn.ModuleDict(rules)

    def forward(self, features: Raw) -> Tensor:
        return self.model.predict(self.rules["item"](self.rules["user"](features)))


class UserPart(nn.Module):
    """Raw user-side features, one row per user -> the state for the item part, tensors [U, ...]."""

    def __init__(self, model: ServedModel, rules: Mapping[str, Rules]):
        super().__init__()
        self.model, self.rules = model, rules["user"]

    def forward(self, features: Raw) -> State:
        made = self.rules(features)
        return self.model.user(made) | {f"{_CROSSED}{key}": made[key] for key in _keys(self.rules.handed_on)}


class ItemPart(nn.Module):
    """The user part's state, each candidate's index in it [B] int64, and raw item-side features -> [B, O]."""

    def __init__(self, model: ServedModel, rules: Mapping[str, Rules]):
        super().__init__()
        self.model, self.rules = model, rules["item"]

    def forward(self, state: State, user: Tensor, features: Raw) -> Tensor:
        of_user = {key: state[f"{_CROSSED}{key}"].index_select(0, user) for key in _keys(self.rules.needed)}
        return self.model.item(state, user, self.rules({**features, **of_user}))


def _keys(names: list[str]) -> list[str]:
    """The IDs of some features for the crosses of the other side, in its rules' inputs and results."""
    return [f"{name}.{part}" for name in names for part in ("id", "present")]


@dataclass(frozen=True)
class Exported:
    """The programs of a model, and their entries in `model.json`."""

    programs: dict[str, Any]
    """By file name."""
    facts: dict[str, Any]


def export_version(version: Version, out: str, quantization: Quantization) -> dict[str, Any]:
    """Write a version's programs and `model.json` to the folder `out`; returns the content of `model.json`.

    `model.json`, with the hash of each program, is written last, and an earlier one is removed first: while it exists, the
    programs match it.
    """
    config = version.config
    tables = {n: make_table(torch.from_numpy(read_table(version, n)), quantization) for n in served_tables(config)}
    maps = {n: read_id_map(version, n) for n in served_tables(config) if n in config.map_tables()}
    ranker = load_ranker(config, read_dense(version), version.manifest.id)
    names = feature_sides(config)
    rules = {side: Rules(config, names[side], maps) for side in names}
    manifest = version.manifest
    try:
        exported = export_model(config, ranker, tables, rules)
    except ConfigError as error:
        raise ConfigError(f"version {manifest.id}: {error}") from error
    facts = {
        "format": FORMAT,
        "version": manifest.id,
        "data": manifest.data_range,
        "quantization": quantization,
        **exported.facts,
        "torch": torch.__version__,
    }
    folder = OutputFolder.open(out)
    _clear(folder)
    for name, program in exported.programs.items():
        buffer = io.BytesIO()
        with _quiet():
            torch.export.save(program, buffer)
        data = buffer.getvalue()
        folder.write(name, data)
        facts["programs"][name] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    folder.write(_FACTS, json.dumps(facts, indent=1) + "\n")
    return facts


def _clear(folder: OutputFolder) -> None:
    """Remove the files of an earlier export, `model.json` first."""
    there = folder.files()
    for name in (_FACTS, *_PROGRAMS):
        if name in there:
            folder.remove(name)


def export_model(
    config: Config, ranker: Ranker, tables: Mapping[str, nn.Module], rules: Mapping[str, Rules], parts: bool = True
) -> Exported:
    """The programs of a model, also in two `parts` if it has both sides. ConfigError if a slot cannot be exported."""
    model = ServedModel(config, ranker, tables)
    sides = feature_sides(config)
    inputs = {"user": _example(config, sides["user"], _USERS), "item": _example(config, sides["item"], _CANDIDATES)}
    scenario = {SCENARIO: torch.zeros(_USERS, dtype=torch.int64)} if config.data.scenario else {}
    inputs["user"] |= scenario
    users, candidates = torch.export.Dim("users", min=1), torch.export.Dim("candidates", min=1)
    both = _example(config, [*sides["user"], *sides["item"]], _CANDIDATES)
    both |= {name: torch.zeros(_CANDIDATES, dtype=torch.int64) for name in scenario}
    programs = {"whole.pt2": _export(config, FullModel(model, rules), (both,), ({**_dims(both, candidates)},))}
    facts: dict[str, Any] = {
        "outputs": [_output(ranker, name) for name in model.outputs],
        "programs": {"whole.pt2": {"inputs": ["features"], "features": list(both), "rows": "candidates"}},
        "features": {name: _described(config, name) for name in (*sides["user"], *sides["item"])},
    }
    if config.data.scenario:
        facts["scenario"] = {"input": SCENARIO, "dtype": "int64", "values": [*config.data.scenario.values, "other"]}
    if parts and can_split(config):
        user_part = UserPart(model, rules)
        programs["user.pt2"] = _export(config, user_part, (inputs["user"],), (_dims(inputs["user"], users),))
        with torch.no_grad():
            state = user_part(inputs["user"])
        index = torch.zeros(_CANDIDATES, dtype=torch.int64)
        programs["item.pt2"] = _export(
            config,
            ItemPart(model, rules),
            (state, index, inputs["item"]),
            ({name: {0: users} for name in state}, {0: candidates}, _dims(inputs["item"], candidates)),
        )
        facts["programs"] |= {
            "user.pt2": {"inputs": ["features"], "features": list(inputs["user"]), "rows": "users"},
            "item.pt2": {
                "inputs": ["state", _INDEX, "features"],
                "features": list(inputs["item"]),
                "rows": "candidates",
            },
        }
        facts["state"] = {n: {"dtype": _dtype(v), "shape": ["users", *v.shape[1:]]} for n, v in state.items()}
    return Exported(programs, facts)


def _example(config: Config, names: list[str], rows: int) -> Raw:
    """Inputs for tracing, in the order of the features."""
    made: Raw = {}
    for name in names:
        feature = config.features[name]
        if isinstance(feature, CrossFeature):  # made of other features
            continue
        if isinstance(feature, VectorFeature):
            made[name] = torch.zeros(rows, feature.width)
        elif isinstance(feature, DenseFeature | BucketFeature):
            made[name] = torch.zeros(rows)
        elif isinstance(feature, IdFeature):
            made[name] = torch.zeros(rows, dtype=torch.int64)
            made[f"{name}.present"] = torch.ones(rows, dtype=torch.bool)
        else:
            made[name] = torch.zeros(_VALUES, dtype=torch.int64)
            made[f"{name}.lengths"] = torch.tensor([_VALUES - rows + 1] + [1] * (rows - 1))
    return made


def _dims(inputs: Raw, rows: Any) -> dict[str, Any]:
    """The dynamic dimensions of inputs: rows, and a separate number of values for each list."""
    return {
        name: {0: torch.export.Dim(f"{name}_values", min=0) if f"{name}.lengths" in inputs else rows} for name in inputs
    }


def _export(config: Config, module: nn.Module, arguments: tuple[Any, ...], dims: tuple[Any, ...]) -> Any:
    with torch.no_grad(), _quiet():
        try:
            return torch.export.export(module.eval(), arguments, dynamic_shapes=dims)
        except Exception as error:
            text = str(error).strip().splitlines()
            slots = ", ".join(f"{slot} (`{path}`)" for slot, path in custom_slots(config).items())
            raise ConfigError(
                f"torch.export fails on the model: {type(error).__name__}: {text[0] if text else ''}; change the class of "
                f"{slots or 'the slot'} so that torch.export supports it, with any number of rows"
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's own messages."""
    before = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch").setLevel(before)


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _output(ranker: Ranker, name: str) -> dict[str, Any]:
    derived = ranker.derived.get(name)
    task = ranker.tasks[derived.child if derived else name]
    return {"name": name, "kind": task.kind} | ({"given": derived.given} if derived else {})


def _described(config: Config, name: str) -> dict[str, Any]:
    """The entry of a feature in `model.json`."""
    feature = config.features[name]
    side = "user" if name in config.user_features() else "item"
    made_of = (
        {"of": feature.of} if isinstance(feature, CrossFeature) else {"column": columns_of(name, config.features)[0]}
    )
    facts: dict[str, Any] = {**made_of, "kind": feature.kind, "side": side}
    number = {"inputs": {name: "float32 [rows], NaN for null"}}
    if isinstance(feature, DenseFeature):
        return facts | number
    if isinstance(feature, VectorFeature):
        return facts | {"inputs": {name: f"float32 [rows, {feature.width}], NaN for null"}}
    table = config.table_of(name)
    spec = config.tables[table]
    facts |= {"table": table, "id_space": spec.id_space, "rows": spec.rows}
    if isinstance(feature, CrossFeature):
        return facts | {"inputs": {}}
    if (null_id := getattr(feature, "null_id", None)) is not None:
        facts |= {"null_id": null_id}
    if isinstance(feature, BucketFeature):
        return facts | {"edges": feature.edges} | number
    facts |= {"strings": "fnv1a64 as signed int64"}
    if isinstance(feature, IdFeature):
        return facts | {"inputs": {name: "int64 [rows]", f"{name}.present": "bool [rows], false for null"}}
    lists = {name: "int64 [values], row after row", f"{name}.lengths": "int64 [rows]"}
    return facts | {"max_length": getattr(feature, "max_length", None), "inputs": lists}
