"""Export a version as programs that take raw IDs and numbers, and predict: for torch, AOTInductor or ONNX.

`whole` takes the features of candidates with those of their users; `user`, which runs once per user, and `item` split the work.
With table files, each has a program before it, such as `whole.rows`, that turns raw features into rows of the tables.
`model.json` describes inputs and outputs.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raymtl.config.features import (
    BucketFeature,
    CrossFeature,
    DenseFeature,
    IdFeature,
    IdsFeature,
    SequenceDenseFeature,
    Tableless,
    VectorFeature,
    columns_of,
)
from raymtl.config.root import Config
from raymtl.data.writing import OutputFolder
from raymtl.errors import ConfigError
from raymtl.models.ranker import Ranker
from raymtl.objectives.outputs import Part
from raymtl.serving.formats import SUFFIX, Format, check_format, quiet, serialize
from raymtl.serving.model import SCENARIO, Raw, ServedModel, can_split, feature_sides, load_ranker, served_tables
from raymtl.serving.parts import FullModel, GivenVectors, ItemPart, UserPart, vectors_for
from raymtl.serving.rules import Rules
from raymtl.serving.table_files import FOLDER, write_tables
from raymtl.serving.tables import Quantization, make_table
from raymtl.serving.version import Version, custom_slots, read_dense, read_id_map, read_table

FORMAT = 1
"""Number of the format of `model.json`."""
_USERS, _CANDIDATES, _VALUES = 2, 3, 7
"""Rows and values of the inputs for tracing; the program accepts any number."""
_FACTS = "model.json"
_PARTS = ("whole", "user", "item")
_ROWS = ".rows"
"""End of the name of a part's first program, if the tables are files."""
_INDEX = "user"
"""The item part's input with each candidate's user."""


@dataclass(frozen=True)
class Exported:
    """The programs of a model, and their entries in `model.json`."""

    programs: dict[str, Any] = field(default_factory=dict)
    """By name, without the end of the file's name."""
    facts: dict[str, Any] = field(default_factory=lambda: {"programs": {}})


def export_version(
    version: Version, out: str, quantization: Quantization, form: Format = "torch", table_files: bool = False
) -> dict[str, Any]:
    """Write a version's programs and `model.json` to the folder `out`; returns the content of `model.json`.

    `model.json`, with the hash of each program, is written last, and an earlier one is removed first: while it exists, the
    programs match it. With `table_files` the tables are files beside the programs, and no table is in memory as a whole.
    """
    check_format(form)
    config, manifest = version.config, version.manifest
    served = served_tables(config)
    maps = {n: read_id_map(version, n) for n in served if n in config.map_tables()}
    ranker = load_ranker(config, read_dense(version), manifest.id)
    names = feature_sides(config)
    rules = {side: Rules(config, names[side], maps) for side in names}
    tables = (
        None if table_files else {n: make_table(torch.from_numpy(read_table(version, n)), quantization) for n in served}
    )
    facts: dict[str, Any] = {
        "format": FORMAT,
        "version": manifest.id,
        "data": manifest.data_range,
        "quantization": quantization,
        "program_format": form,
    }
    try:
        exported = export_model(config, ranker, tables, rules)
        files = {}
        for name, program in exported.programs.items():
            entry = exported.facts["programs"][name]
            files[f"{name}{SUFFIX[form]}"] = serialize(program, form, entry), entry
    except ConfigError as error:
        raise ConfigError(f"version {manifest.id}: {error}") from error
    facts |= {**exported.facts, "programs": {}, "torch": torch.__version__}
    folder = OutputFolder.open(out)
    _clear(folder)
    if table_files:
        facts["tables"] = write_tables(version, folder, quantization)
    for name, (data, entry) in files.items():
        folder.write(name, data)
        facts["programs"][name] = entry | {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    folder.write(_FACTS, json.dumps(facts, indent=1) + "\n")
    return facts


def _clear(folder: OutputFolder) -> None:
    """Remove the files of an earlier export, `model.json` first. Raises ConfigError in a folder of logs."""
    there = folder.files()
    programs = [f"{part}{rows}{suffix}" for part in _PARTS for rows in ("", _ROWS) for suffix in set(SUFFIX.values())]
    tables = [name for name in there if name.startswith(f"{FOLDER}/") and name.endswith(".npy")]
    if logs := [name for name in there if name.endswith(".parquet")]:
        raise ConfigError(f"--out `{folder.path}` holds logs, such as `{logs[0]}`; use another folder")
    for name in (_FACTS, *programs, *tables):
        if name in there:
            folder.remove(name)


def export_model(
    config: Config,
    ranker: Ranker,
    tables: Mapping[str, nn.Module] | None,
    rules: Mapping[str, Rules],
    parts: Iterable[str] = _PARTS,
) -> Exported:
    """The programs of a model, also in two parts if it has both sides. ConfigError if a slot cannot be exported.

    Without `tables`, the programs take looked-up vectors, and other programs give the rows to look up.
    """
    model = ServedModel(config, ranker, tables or dict.fromkeys(served_tables(config), GivenVectors()))
    sides = feature_sides(config)
    scenario = {SCENARIO: torch.zeros(_USERS, dtype=torch.int64)} if config.data.scenario else {}
    both = _example(config, [*sides["user"], *sides["item"]], _CANDIDATES)
    both |= {name: torch.zeros(_CANDIDATES, dtype=torch.int64) for name in scenario}
    exported = Exported()
    exported.facts.update(
        {
            "outputs": [
                *(_output(ranker, name, part) for name, part in ranker.outputs.parts.items()),
                *(_score(config, name) for name in model.scores),
            ],
            "features": {name: _described(config, name) for name in (*sides["user"], *sides["item"])},
        }
    )
    if config.data.scenario:
        exported.facts["scenario"] = {
            "input": SCENARIO,
            "dtype": "int64",
            "values": [*config.data.scenario.values, "other"],
        }
    add = _Adder(config, exported, given=tables is None)
    if "whole" in parts:
        add("whole", FullModel(model, rules), {}, both, [*sides["user"], *sides["item"]], "candidates")
    if can_split(config) and {"user", "item"} <= set(parts):
        user = _example(config, sides["user"], _USERS) | scenario
        state = add("user", UserPart(model, rules), {}, user, sides["user"], "users")
        exported.facts["state"] = {n: {"dtype": _dtype(v), "shape": ["users", *v.shape[1:]]} for n, v in state.items()}
        item, index = _example(config, sides["item"], _CANDIDATES), torch.zeros(_CANDIDATES, dtype=torch.int64)
        add("item", ItemPart(model, rules), {"state": state, _INDEX: index}, item, sides["item"], "candidates")
    return exported


@dataclass(frozen=True)
class _Adder:
    """Traces the parts and adds them to what is exported."""

    config: Config
    exported: Exported
    given: bool
    """Whether the vectors are inputs."""

    def __call__(
        self, name: str, part: nn.Module, others: dict[str, Any], features: Raw, names: list[str], rows: str
    ) -> Any:
        """Trace a part with `others`, the inputs before its features; returns what it gives for them."""
        config = self.config
        users, dim = torch.export.Dim("users", min=1), torch.export.Dim(rows, min=1)
        dims = ({key: {0: users} for key in others["state"]}, {0: dim}) if others else ()
        steps = [(name, part, features)]
        with torch.no_grad():
            if not self.given:
                result = part(*others.values(), features)
            else:
                made = part.rows(*others.values(), features)
                lookups = {n: config.table_of(n) for n in names if not isinstance(config.features[n], Tableless)}
                vectors = vectors_for(made, {n: config.tables[table].dim for n, table in lookups.items()})
                result = part.model(*others.values(), vectors)
                steps = [(f"{name}{_ROWS}", part.rows, features), (name, part.model, vectors)]
        for step, module, inputs in steps:
            arguments = (*others.values(), inputs)
            self.exported.programs[step] = _export(config, module, arguments, (*dims, _dims(config, inputs, dim)))
            self.exported.facts["programs"][step] = {
                "inputs": [*others, "features"],
                "features": list(inputs),
                "rows": rows,
                "gives": "rows" if step.endswith(_ROWS) else "state" if name == "user" else "predictions",
            }
        if self.given:
            self.exported.facts["programs"][name]["lookups"] = lookups
        return result


def _example(config: Config, names: list[str], rows: int) -> Raw:
    """Inputs for tracing, in the order of the features."""
    made: Raw = {}
    for name in names:
        feature = config.features[name]
        if isinstance(feature, CrossFeature):  # made of other features
            continue
        if isinstance(feature, VectorFeature):
            made[name] = torch.zeros(rows, feature.width)
        elif isinstance(feature, SequenceDenseFeature):
            made[name] = torch.zeros(_VALUES)
        elif isinstance(feature, DenseFeature | BucketFeature):
            made[name] = torch.zeros(rows)
        elif isinstance(feature, IdFeature):
            made[name] = torch.zeros(rows, dtype=torch.int64)
            made[f"{name}.present"] = torch.ones(rows, dtype=torch.bool)
        else:
            made[name] = torch.zeros(_VALUES, dtype=torch.int64)
            made[f"{name}.lengths"] = torch.tensor([_VALUES - rows + 1] + [1] * (rows - 1))
            if isinstance(feature, IdsFeature) and feature.weights is not None:
                made[f"{name}.weights"] = torch.ones(_VALUES)
    return made


def _dims(config: Config, inputs: Raw, rows: Any) -> dict[str, Any]:
    """The dynamic dimensions of inputs: rows, and a separate number of values for each list, which what stands beside it has."""
    values = {
        name: torch.export.Dim(f"{name}_values", min=0) for name in config.features if f"{name}.lengths" in inputs
    }
    beside = {n: f.of for n, f in config.features.items() if isinstance(f, SequenceDenseFeature)}
    beside |= {f"{name}.{more}": name for name in values for more in ("weights", "rows")}
    return {name: {0: values.get(beside.get(name, name), rows)} for name in inputs}


def _export(config: Config, module: nn.Module, arguments: tuple[Any, ...], dims: tuple[Any, ...]) -> Any:
    with torch.no_grad(), quiet():
        try:
            return torch.export.export(module.eval(), arguments, dynamic_shapes=dims)
        except Exception as error:
            text = str(error).strip().splitlines()
            slots = ", ".join(f"{slot} (`{path}`)" for slot, path in custom_slots(config).items())
            raise ConfigError(
                f"torch.export fails on the model: {type(error).__name__}: {text[0] if text else ''}; change the class of "
                f"{slots or 'the slot'} so that torch.export supports it, with any number of rows"
            ) from error


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _output(ranker: Ranker, name: str, part: Part) -> dict[str, Any]:
    """The entry of a column of predictions in `model.json`."""
    facts = {"name": name, "kind": ranker.tasks[part.task].kind}
    if part.given is not None:
        facts |= {"given": part.given}
    return facts if part.part is None else facts | {"task": part.task, "part": part.part}


def _score(config: Config, name: str) -> dict[str, Any]:
    assert config.score is not None
    return {"name": f"score_{name}", "kind": "score", "formula": config.score.formulas[name].model_dump(mode="json")}


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
    if isinstance(feature, SequenceDenseFeature):
        return facts | {"of": feature.of, "inputs": {name: f"float32 [values of {feature.of}], NaN for null"}}
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
    if isinstance(feature, IdsFeature) and feature.weights is not None:
        lists[f"{name}.weights"] = "float32 [values], NaN for null"
        facts |= {"weights": feature.weights}
    return facts | {"max_length": getattr(feature, "max_length", None), "inputs": lists}
