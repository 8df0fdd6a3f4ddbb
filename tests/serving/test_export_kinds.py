"""Tasks of every kind in exported programs: the columns, their names, and the values of the model."""

import torch
from torch import Tensor

from raymtl.config.load import config_from_dict
from raymtl.embeddings.spec import input_spec
from raymtl.models.ranker import build_ranker
from raymtl.serving.export import export_model
from raymtl.serving.formats import serialize
from raymtl.serving.model import ServedModel, feature_sides, served_tables
from raymtl.serving.rules import Rules
from raymtl.serving.tables import make_table
from tests.helpers.exported_programs import onnx_program
from tests.helpers.preset_models import random_inputs, small
from tests.helpers.task_kinds import RAW, TASKS, labels_of_kinds, rates_of

NAMES = [
    *TASKS,
    *("device_phone", "device_desk", "device_pad"),
    *(f"topic_{label}" for label in range(4)),
    *(f"stars_{label}" for label in range(5)),
    "paid_probability",
    *("delay_q10", "delay_q50", "delay_q75", "delay_q90"),
    "late_q90",
]


def test_programs_give_every_prediction_of_every_kind() -> None:
    raw = small("mmoe").model_dump(exclude_unset=True)
    raw["tasks"] = RAW
    config = config_from_dict(raw)
    torch.manual_seed(0)
    rates = rates_of(labels_of_kinds(2000))
    ranker = build_ranker(config.model, config.active_tasks(), input_spec(config), rates).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tables = {n: make_table(torch.randn(8, config.tables[n].dim), "fp32") for n in served_tables(config)}
    rules = {side: Rules(config, names, {}) for side, names in feature_sides(config).items()}
    model = ServedModel(config, ranker, tables)
    exported = export_model(config, ranker, tables, rules)
    assert [output["name"] for output in exported.facts["outputs"]] == model.outputs == NAMES
    assert exported.facts["outputs"][NAMES.index("device_desk")] == {
        "name": "device_desk", "kind": "multiclass", "task": "device", "part": "desk",
    }  # fmt: skip
    entry = exported.facts["programs"]["whole"]
    onnx = onnx_program(serialize(exported.programs["whole"], "onnx", entry), entry)
    for rows in (1, 6):
        both = random_inputs(config, rows)
        user, item = ({n: both[n] for n in exported.facts["programs"][part]["features"]} for part in ("user", "item"))
        with torch.no_grad():
            expected = model.predict(rules["item"](rules["user"](both)))
            assert expected.shape == (rows, len(NAMES))
            state = exported.programs["user"].module()(user)
            for found in (
                exported.programs["whole"].module()(both),
                exported.programs["item"].module()(state, torch.arange(rows), item),
                onnx(both),
            ):
                check(found, expected)
        check_parts(expected)


def check(found: Tensor, expected: Tensor) -> None:
    """Probabilities and classes to 1e-6, amounts to 1e-5 of themselves, as for the presets."""
    for name, one, other in zip(NAMES, found.unbind(1), expected.unbind(1), strict=True):
        amount = name.startswith(("stars", "views", "watched", "paid", "rating", "spend", "delay", "late"))
        torch.testing.assert_close(
            one, other, rtol=1e-5 if amount else 1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def check_parts(expected: Tensor) -> None:
    """The parts of a task belong together."""
    of = dict(zip(NAMES, expected.unbind(1), strict=True))
    for name in ("device", "topic"):
        chances = torch.stack([of[column] for column in NAMES if column.startswith(f"{name}_")], 1)
        torch.testing.assert_close(chances.sum(1), torch.ones(len(chances)))
        assert torch.equal(of[name].long(), chances.argmax(1))
    levels = torch.stack([of[f"stars_{level}"] for level in range(5)], 1)
    torch.testing.assert_close(levels.sum(1), torch.ones(len(levels)))
    torch.testing.assert_close(of["stars"], levels @ torch.arange(5.0))
    quantiles = torch.stack([of[f"delay_q{level}"] for level in (10, 50, 75, 90)], 1)
    assert (quantiles.diff(dim=1) > 0).all()
    assert torch.equal(of["delay"], quantiles[:, 1])
    assert (of["paid"] > 0).all()
