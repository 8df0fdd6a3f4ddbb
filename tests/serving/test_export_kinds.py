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
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        check_parts(expected)


def check_parts(expected: Tensor) -> None:
    """The parts of a task belong together."""
    of = dict(zip(NAMES, expected.unbind(1), strict=True))
    for name in ("device", "topic"):
        chances = torch.stack([of[column] for column in NAMES if column.startswith(f"{name}_")], 1)
        torch.testing.assert_close(chances.sum(1), torch.ones(len(chances)))
        assert torch.equal(of[name].long(), chances.argmax(1))
