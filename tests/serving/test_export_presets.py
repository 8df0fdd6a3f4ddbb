"""Every published model becomes programs, for any number of rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raymtl.config.load import config_from_dict
from raymtl.config.presets import PRESETS
from raymtl.config.root import Config
from raymtl.config.source import read_source
from raymtl.embeddings.spec import input_spec
from raymtl.models.ranker import build_ranker
from raymtl.serving.export import _example, export_model
from raymtl.serving.model import SCENARIO, ServedModel, feature_sides, served_tables
from raymtl.serving.rules import Rules
from raymtl.serving.tables import make_table

CONF = Path(__file__).parents[2] / "jobs" / "conf"
SPLIT = ("m2m", "dtrn")
"""Models whose parts are exported too, since theirs do most; those of DUPN and MMoE are in test_served_version.py."""


def named(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {name for inner in value.values() for name in named(inner)}
    if isinstance(value, list):
        return {name for inner in value for name in named(inner)}
    return {value} if isinstance(value, str) else set()


def small(preset: str) -> Config:
    """Its configuration with the features that the model names, one more of each side, and small tables."""
    raw = read_source(str(CONF / f"{preset}.yaml"), None).merged()
    kept = named(raw["model"]) | {"user_id", "item_id", "price", "position"}
    kept |= set() if any(name.startswith("hist_") for name in kept) else {"hist_items"}
    raw["features"] = {n: f for n, f in raw["features"].items() if n in kept}
    used = {f.get("table", n) for n, f in raw["features"].items() if f["kind"] != "dense"}
    raw["tables"] = {n: {**raw["tables"][n], "rows": 8, "id_space": "direct"} for n in used}
    raw["data"].pop("eval", None)
    if "fields" in raw["model"].get("input", {}):
        fields = raw["model"]["input"]["fields"]
        raw["model"]["input"]["fields"] = {k: [n for n in v if n in raw["features"]] for k, v in fields.items()}
    return config_from_dict(raw)


def inputs(config: Config, names: list[str], rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    made = _example(config, names, rows)
    for name, value in made.items():
        if name.endswith(".lengths"):
            made[name] = lengths = torch.randint(0, 4, (rows,), generator=generator)
            made[name.removesuffix(".lengths")] = torch.randint(0, 8, (int(lengths.sum()),), generator=generator)
        elif value.dtype == torch.float32:
            made[name] = torch.randn(rows, generator=generator)
        elif f"{name}.lengths" not in made:
            made[name] = torch.randint(0, 2, (rows,), generator=generator).to(value.dtype)
    return made


@pytest.mark.parametrize("preset", PRESETS)
def test_the_programs_say_what_the_model_says(preset: str) -> None:
    config = small(preset)
    torch.manual_seed(0)
    ranker = build_ranker(config.model, config.active_tasks(), input_spec(config), {}).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tables = {n: make_table(torch.randn(8, config.tables[n].dim), "int8") for n in served_tables(config)}
    model, sides = ServedModel(config, ranker, tables), feature_sides(config)
    rules = {side: Rules(config, names, {}) for side, names in sides.items()}
    exported = export_model(config, ranker, tables, rules, parts=preset in SPLIT)
    for rows in (1, 6):
        both = inputs(config, [*sides["user"], *sides["item"]], rows)
        if config.data.scenario:
            both[SCENARIO] = torch.arange(rows) % 3
        with torch.no_grad():
            expected = model.predict(rules["item"](rules["user"](both)))
            check(model, exported.programs["whole.pt2"].module()(both), expected)
            if preset in SPLIT:
                user, item = ({k: both[k] for k in part} for part in _parts(exported.facts))
                state = exported.programs["user.pt2"].module()(user)
                found = exported.programs["item.pt2"].module()(state, torch.arange(rows), item)
                check(model, found, expected)


def check(model: ServedModel, found: Tensor, expected: Tensor) -> None:
    """Probabilities to 1e-6, and to the rounding of fp32, 1e-6 of themselves; counts and amounts to 1e-5 of themselves."""
    tasks = [*model.ranker.tasks.values(), *(model.ranker.tasks[d.child] for d in model.ranker.derived.values())]
    for column, task in enumerate(tasks):
        binary = task.kind == "binary"
        tolerance = {"rtol": 1e-6, "atol": 1e-6} if binary else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(found[:, column], expected[:, column], **tolerance)


def _parts(facts: dict[str, Any]) -> tuple[list[str], list[str]]:
    return facts["programs"]["user.pt2"]["features"], facts["programs"]["item.pt2"]["features"]
