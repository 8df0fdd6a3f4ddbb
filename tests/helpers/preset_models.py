"""Small models of the presets with random weights, and random inputs for them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.config.source import read_source
from raymtl.embeddings.spec import input_spec
from raymtl.models.ranker import build_ranker
from raymtl.serving.export import Exported, _example, export_model
from raymtl.serving.model import SCENARIO, ServedModel, feature_sides, served_tables
from raymtl.serving.rules import Rules
from raymtl.serving.tables import Quantization, make_table

CONF = Path(__file__).parents[2] / "jobs" / "conf"


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
    raw["tables"] = {n: {**raw["tables"][n], "rows": 8, "id_space": "direct"} for n in sorted(used)}
    raw["data"].pop("eval", None)
    if "fields" in raw["model"].get("input", {}):
        fields = raw["model"]["input"]["fields"]
        raw["model"]["input"]["fields"] = {k: [n for n in v if n in raw["features"]] for k, v in fields.items()}
    return config_from_dict(raw)


def random_inputs(config: Config, rows: int) -> dict[str, Tensor]:
    """For the full program."""
    generator = torch.Generator().manual_seed(rows)
    names = [name for side in feature_sides(config).values() for name in side]
    made = _example(config, names, rows)
    for name, value in made.items():
        if name.endswith(".lengths"):
            made[name] = lengths = torch.randint(0, 4, (rows,), generator=generator)
            made[name.removesuffix(".lengths")] = torch.randint(0, 8, (int(lengths.sum()),), generator=generator)
        elif value.dtype == torch.float32:
            made[name] = torch.randn(rows, generator=generator)
        elif f"{name}.lengths" not in made:
            made[name] = torch.randint(0, 2, (rows,), generator=generator).to(value.dtype)
    return made | ({SCENARIO: torch.arange(rows) % 3} if config.data.scenario else {})


def exported_preset(
    preset: str,
    quantization: Quantization,
    parts: Iterable[str] = ("whole",),
    score: dict[str, Any] | None = None,
) -> tuple[Config, ServedModel, dict[str, Rules], Exported]:
    """Its model, rules and programs, with a `score` section or without."""
    config = small(preset)
    if score is not None:
        config = config_from_dict(config.model_dump(mode="json") | {"score": score})
    torch.manual_seed(0)
    ranker = build_ranker(config.model, config.active_tasks(), input_spec(config), {}).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tables = {n: make_table(torch.randn(8, config.tables[n].dim), quantization) for n in served_tables(config)}
    rules = {side: Rules(config, names, {}) for side, names in feature_sides(config).items()}
    return config, ServedModel(config, ranker, tables), rules, export_model(config, ranker, tables, rules, parts)
