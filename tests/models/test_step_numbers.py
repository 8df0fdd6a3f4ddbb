"""Where the numbers of a history's steps stand in the sequence slots."""

import pytest
import torch

from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.sequences.din import DINSequence
from raymtl.models.sequences.dupn import DUPNSequence
from raymtl.models.sequences.pooled import PooledSequence
from raymtl.models.sequences.steps import Behaviours
from raymtl.models.slots import Context

SPEC = InputSpec(
    pooled={"item": 2},
    sequences={"items": 2, "carts": 2, "gap": 1, "action": 3, "dwell": 1},
    numbers={"gap": "items", "dwell": "carts"},
)
LENGTHS = {"items": [3, 0], "carts": [1, 2]}
CONTEXT = Context(tasks={}, spec=SPEC, heads=1)


def inputs() -> ModelInput:
    torch.manual_seed(0)
    found = {}
    for name, width in SPEC.sequences.items():
        lengths = torch.tensor(LENGTHS["carts" if name in ("carts", "dwell") else "items"])
        there = torch.arange(4) < lengths.unsqueeze(1)
        found[name] = torch.randn(2, 4, width) * there.unsqueeze(2), lengths
    return ModelInput(torch.randn(2, 2), torch.zeros(2, 0), found)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (None, {"items": ["items", "gap"], "carts": ["carts", "dwell"], "action": ["action"]}),
        ({"a": ["items", "action"], "b": ["carts"]}, {"a": ["items", "gap", "action"], "b": ["carts", "dwell"]}),
        ({"a": ["items", "action", "gap"], "b": ["carts"]}, {"a": ["items", "action", "gap"], "b": ["carts", "dwell"]}),
    ],
)
def test_numbers_stand_behind_their_feature_unless_they_are_listed(groups, expected) -> None:
    behaviours, given = Behaviours(SPEC, groups), inputs()
    assert behaviours.groups == expected
    for name, (steps, mask) in behaviours(given).items():
        parts = [given.sequences[feature][0] for feature in expected[name]]
        assert torch.equal(steps, torch.cat(parts, 2))
        assert behaviours.widths[name] == steps.shape[2]
        assert mask.sum(1).tolist() == given.sequences[expected[name][0]][1].tolist()


def test_the_mean_of_the_steps_has_the_mean_of_their_numbers() -> None:
    slot, given = PooledSequence(CONTEXT), inputs()
    found = slot(given)
    gap = given.sequences["gap"][0]
    assert found.shape == (2, slot.width) == (2, 9)
    torch.testing.assert_close(found[:, 4], torch.tensor([gap[0, :3].mean(), 0.0]))


@pytest.mark.parametrize("search", [None, {"items": "item"}])
def test_din_reads_the_numbers_of_its_steps(search) -> None:
    tables = {"item": "item", "items": "item"}
    spec = InputSpec(
        pooled={"text": 3, "item": 2}, sequences={"items": 2, "gap": 1}, numbers={"gap": "items"}, tables=tables
    )
    slot = DINSequence(Context({}, spec, heads=1), target=["text", "item"], hidden=[4], softmax=True, search=search)
    assert slot.reads == ("items", "gap")
    assert slot.width == 3
    steps, numbers = torch.randn(1, 3, 2), torch.tensor([[[1.0], [2.0], [0.0]]])
    lengths = torch.tensor([2])
    ids = {"items": torch.tensor([[7, 7, -1]]), "item": torch.tensor([7])}
    given = ModelInput(torch.randn(1, 5), torch.zeros(1, 0), {"items": (steps, lengths), "gap": (numbers, lengths)})
    given.ids = ids
    assert 1.0 < slot(given)[0, 2].item() < 2.0  # a mean of 1 and 2


def test_dupn_takes_numbers_as_content_or_as_properties() -> None:
    spec = InputSpec(pooled={"item": 2}, sequences={"items": 2, "gap": 1, "action": 3}, numbers={"gap": "items"})
    context = Context(tasks={}, spec=spec, heads=1)
    options = {"hidden": 4, "attention_hidden": 4}
    content = DUPNSequence(context, properties=["action"], **options)
    gates = DUPNSequence(context, item=["items"], properties=["gap", "action"], **options)
    assert content.reads == ("items", "gap", "action")
    assert gates.reads == ("items", "gap", "action")
    assert (content.lstm.item.shape[-1], content.lstm.property.shape[-1]) == (3, 3)
    assert (gates.lstm.item.shape[-1], gates.lstm.property.shape[-1]) == (2, 4)
    given = inputs()
    changed = ModelInput(given.pooled, given.dense, dict(given.sequences))
    numbers, lengths = given.sequences["gap"]
    changed.sequences["gap"] = numbers + (numbers != 0), lengths
    for slot in (content, gates):
        torch.nn.init.normal_(slot.lstm.property)
        before, after = slot(given), slot(changed)
        assert not torch.allclose(before[0], after[0], atol=1e-4)
        assert torch.equal(before[1], after[1])  # an empty history
