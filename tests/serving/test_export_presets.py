"""Every published model becomes programs for torch and for ONNX, for any number of rows."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raymtl.config.presets import PRESETS
from raymtl.embeddings.names import module_name
from raymtl.serving.export import export_model
from raymtl.serving.formats import serialize
from raymtl.serving.model import ServedModel
from tests.helpers.exported_programs import onnx_program
from tests.helpers.preset_models import exported_preset, random_inputs

SPLIT = ("m2m", "dtrn", "din")
"""Models whose parts are exported too, since theirs do most; those of DUPN and MMoE are in test_served_version.py."""


@pytest.mark.parametrize("preset", PRESETS)
def test_the_programs_say_what_the_model_says(preset: str) -> None:
    parts = ("whole", "user", "item") if preset in SPLIT else ("whole",)
    config, model, rules, exported = exported_preset(preset, "int8", parts)
    entry = exported.facts["programs"]["whole"]
    onnx = onnx_program(serialize(exported.programs["whole"], "onnx", entry), entry)
    for rows in (1, 6):
        both = random_inputs(config, rows)
        with torch.no_grad():
            expected = model.predict(rules["item"](rules["user"](both)))
            check(model, exported.programs["whole"].module()(both), expected)
            torch.testing.assert_close(onnx(both), expected, rtol=1e-5, atol=1e-5)
            if preset in SPLIT:
                user, item = ({k: both[k] for k in part} for part in _parts(exported.facts))
                state = exported.programs["user"].module()(user)
                found = exported.programs["item"].module()(state, torch.arange(rows), item)
                check(model, found, expected)


def test_a_search_compares_ids_where_vectors_come_in_their_place() -> None:
    """With table files the programs get vectors, and the rows of the searched features beside them."""
    config, model, rules, _ = exported_preset("din", "none", ())
    exported = export_model(config, model.ranker, None, rules)
    facts = exported.facts["programs"]
    assert [n for n in facts["item"]["features"] if n.endswith(".rows")] == ["category.rows"]
    assert [n for n in facts["user"]["features"] if n.endswith(".rows")] == ["hist_categories.rows"]

    def run(part: str, features: dict[str, Tensor], *others: Any) -> Any:
        """A part of the export, its vectors looked up between its two programs."""
        given = {n: features[n] for n in facts[f"{part}.rows"]["features"]}
        made = {**features, **exported.programs[f"{part}.rows"].module()(*others, given)}
        for name, table in facts[part]["lookups"].items():
            side = "user" if name in config.user_features() else "item"
            made[name] = model.lookups[side].tables[module_name(table)](made[name])
        return exported.programs[part].module()(*others, {n: made[n] for n in facts[part]["features"]})

    for rows in (1, 6):
        both = random_inputs(config, rows)
        with torch.no_grad():
            expected = model.predict(rules["item"](rules["user"](both)))
            check(model, run("whole", both), expected)
            check(model, run("item", both, run("user", both), torch.arange(rows)), expected)


def check(model: ServedModel, found: Tensor, expected: Tensor) -> None:
    """Probabilities to 1e-6, and to the rounding of fp32, 1e-6 of themselves; counts and amounts to 1e-5 of themselves."""
    for column, part in enumerate(model.ranker.outputs.parts.values()):
        binary = model.ranker.tasks[part.task].kind == "binary"
        tolerance = {"rtol": 1e-6, "atol": 1e-6} if binary else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(found[:, column], expected[:, column], **tolerance)


def _parts(facts: dict[str, Any]) -> tuple[list[str], list[str]]:
    return facts["programs"]["user"]["features"], facts["programs"]["item"]["features"]
