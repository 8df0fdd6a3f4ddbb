"""DIN: the formulas, the search, gradients, and the same numbers for users apart from candidates (docs/formulas.md)."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.errors import ConfigError
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.requests import NamedInput, RequestInput
from raymtl.models.sequences import steps as steps_module
from raymtl.models.sequences.din import ActivationUnit, DINSequence, last_matches
from raymtl.models.slots import Context
from tests.helpers.model_zoo import FUNNEL, stir

SPEC = InputSpec(
    pooled={"user": 4, "item": 3, "category": 3},
    sequences={"how": 2, "clicked": 3, "kinds": 3, "bought": 3},
    tables={
        **{"user": "user", "item": "item", "category": "category"},
        **{"how": "how", "clicked": "item", "kinds": "category", "bought": "item"},
    },
)
BEHAVIOURS = {"click": ["how", "clicked", "kinds"], "buy": ["bought"]}
LENGTHS = {"how": 6, "clicked": 6, "kinds": 6, "bought": 4}
OPTIONS: dict[str, Any] = {"behaviours": BEHAVIOURS, "target": ["category", "item"], "hidden": [5, 4], "heads": 2}
SEARCH: dict[str, Any] = {"search": {"click": "category"}, "search_steps": 2}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "softmax": {"softmax": True},
    "search": SEARCH,
    "search, softmax, one head, one layer": {**SEARCH, "softmax": True, "heads": 1, "hidden": [5]},
}
every_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES)
STEP_COLUMNS = {"click": ["clicked", "kinds", "how"], "buy": ["bought"]}
"""The features that are compared come first."""
PARTNERS = {"clicked": "item", "kinds": "category", "bought": "item"}


def rows(n: int, seed: int = 1) -> ModelInput:
    """Histories of 0 to 6 clicks and 4 down to 0 buys, with 3 categories; every seventh candidate has none."""
    g = torch.Generator().manual_seed(seed)
    counts = {"click": torch.arange(n) % 7, "buy": 4 - torch.arange(n) % 5}
    sequences, ids = {}, {}
    for behaviour, names in BEHAVIOURS.items():
        for name in names:
            there = torch.arange(LENGTHS[name]) < counts[behaviour].unsqueeze(1)
            values = torch.randn(n, LENGTHS[name], SPEC.sequences[name], generator=g)
            sequences[name] = values * there.unsqueeze(2), counts[behaviour]
            if name == "kinds":
                ids[name] = torch.randint(0, 3, there.shape, generator=g).where(there, torch.tensor(-1))
    ids["category"] = torch.randint(0, 3, (n,), generator=g).where(torch.arange(n) % 7 != 6, torch.tensor(-1))
    return ModelInput(torch.randn(n, 10, generator=g), torch.zeros(n, 0), sequences, ids=ids)


def din(**options: Any) -> DINSequence:
    torch.manual_seed(0)
    return stir(DINSequence(Context(FUNNEL, SPEC, heads=3), **{**OPTIONS, **options}))


def written_out(slot: DINSequence, inputs: ModelInput, options: dict[str, Any]) -> Tensor:
    """The formulas for every row and history by itself, without padding, masks or the split first layer."""
    pooled = dict(zip(SPEC.pooled, inputs.pooled.split([4, 3, 3], 1), strict=True))
    made = []
    for row in range(len(inputs.pooled)):
        v = torch.cat([pooled[name][row] for name in ("category", "item")])
        parts = []
        for unit, (behaviour, names) in zip(slot.units, STEP_COLUMNS.items(), strict=True):
            count = int(inputs.sequences[names[0]][1][row])
            kept = list(range(count))
            if behaviour in options.get("search", {}):
                wanted = int(inputs.ids["category"][row])
                kept = [i for i in kept if int(inputs.ids["kinds"][row, i]) == wanted][-options["search_steps"] :]
            weights, steps = [], []
            for i in kept:
                e = torch.cat([inputs.sequences[name][0][row, i] for name in names])
                product = torch.cat(
                    [
                        inputs.sequences[name][0][row, i] * pooled[PARTNERS[name]][row]
                        for name in names
                        if name in PARTNERS
                    ]
                )
                x = torch.cat((e, v, product))
                x = (torch.cat((unit.step, unit.target, unit.product), 1) @ x + unit.bias).relu()
                for layer in unit.deeper.layers:
                    x = (layer.weight @ x + layer.bias).relu()
                weights.append(unit.out.weight @ x + unit.out.bias)
                steps.append(e)
            width, heads = slot.units[len(parts)].step.shape[1], len(unit.out.bias)
            if not steps:
                parts.append(torch.zeros(heads * width, dtype=v.dtype))
                continue
            a = torch.stack(weights)
            a = a.softmax(0) if options.get("softmax") else a
            parts.append((a.T @ torch.stack(steps)).flatten())
        made.append(torch.cat(parts))
    return torch.stack(made)


@every_case
def test_the_formula(options: dict[str, Any]) -> None:
    slot, inputs = din(**options), rows(35)
    found = slot(inputs)
    assert found.shape == (35, slot.width)
    torch.testing.assert_close(found, written_out(slot, inputs, options), rtol=1e-5, atol=1e-5)


def test_the_first_layer_has_the_difference() -> None:
    """Any unit of [e, v, e − v, e ⊙ v], as in the authors' code, is one of [e, v, e ⊙ v]."""
    unit = stir(ActivationUnit(3, 3, [0, 1, 2], [5], 1))
    theirs = torch.randn(5, 12)
    on_step, on_target, on_difference, on_product = theirs.split(3, 1)
    unit.step.data, unit.target.data, unit.product.data = on_step + on_difference, on_target - on_difference, on_product
    e, v = torch.randn(4, 6, 3), torch.randn(4, 3)
    wide = v.unsqueeze(1).expand(-1, 6, -1)
    hidden = F.relu(torch.cat((e, wide, e - wide, e * wide), 2) @ theirs.T + unit.bias)
    torch.testing.assert_close(unit(e, v), F.linear(hidden, unit.out.weight, unit.out.bias).transpose(1, 2))


def test_the_search_finds_the_last_steps_with_the_id() -> None:
    ids = torch.tensor([[7, 3, 7, 7, 5, -1], [3, 3, -1, -1, -1, -1], [-1] * 6, [1, 2, 3, 4, 5, 6]])
    place, there = last_matches(ids, torch.tensor([7, 7, -1, 3]), 2)
    assert there.tolist() == [[True, True], [False, False], [False, False], [True, False]]
    assert place[there].tolist() == [3, 2, 2]
    everything, _ = last_matches(ids, torch.tensor([7, 7, -1, 3]), 50)
    assert everything.shape == (4, 6)


def test_a_search_of_the_whole_history_is_the_full_attention_to_equal_steps() -> None:
    """With one category for all, searching changes nothing but the order of the sum."""
    inputs = rows(20)
    inputs.ids["category"] = torch.ones(20, dtype=torch.int64)
    inputs.ids["kinds"] = torch.where(inputs.ids["kinds"] >= 0, 1, -1)
    searched = din(search={"click": "category"}, search_steps=6)
    torch.testing.assert_close(searched(inputs), din()(inputs), rtol=1e-5, atol=1e-5)


@every_case
def test_gradients(options: dict[str, Any]) -> None:
    slot, inputs = din(**options).double(), rows(9)
    tensors = [inputs.pooled.double(), *(steps.double() for steps, _ in inputs.sequences.values())]

    def run(pooled: Tensor, *steps: Tensor) -> Tensor:
        lengths = [length for _, length in inputs.sequences.values()]
        sequences = dict(zip(inputs.sequences, zip(steps, lengths, strict=True), strict=True))
        return slot(ModelInput(pooled, pooled[:, :0], sequences, ids=inputs.ids))

    assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in tensors])


@every_case
def test_users_apart_from_their_candidates(options: dict[str, Any]) -> None:
    """Encoding users once, in any order and repeated, is the same as rows that repeat them."""
    slot, users, request = din(**options), rows(7), torch.tensor([3, 3, 0, 6, 5, 5, 5, 2, 3])
    of_rows = rows(len(request), seed=5)
    sequences = {name: (steps[request], lengths[request]) for name, (steps, lengths) in users.sequences.items()}
    ids = {"kinds": users.ids["kinds"][request], "category": of_rows.ids["category"]}
    flat = slot(ModelInput(of_rows.pooled, of_rows.dense, sequences, ids=ids))
    apart = slot.attend(slot.encode(users), request, of_rows)
    torch.testing.assert_close(apart, flat)
    user_side = NamedInput(SPEC, request[:7], {}, {}, users.sequences, {"kinds": users.ids["kinds"]})
    pooled = dict(zip(SPEC.pooled, of_rows.pooled.split([4, 3, 3], 1), strict=True))
    row_side = NamedInput(SPEC, request, pooled, {}, {}, {"category": of_rows.ids["category"]})
    shared = RequestInput(user_side, row_side, request, None, None, None)
    torch.testing.assert_close(slot(shared), flat)
    torch.testing.assert_close(slot.attend(slot.encode(shared.users), request, shared), flat)


@every_case
def test_chunks_change_nothing(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    slot, inputs = din(**options), rows(23)
    whole = slot(inputs)
    monkeypatch.setattr(steps_module, "CHUNK_ELEMENTS", 100)
    torch.testing.assert_close(slot(inputs), whole)
    assert slot(rows(0)).shape == (0, slot.width)


def test_only_steps_that_are_there_and_found_get_gradients() -> None:
    slot, inputs = din(**SEARCH), rows(21)
    steps, lengths = inputs.sequences["clicked"]
    inputs.sequences["clicked"] = steps.requires_grad_(), lengths
    slot(inputs).sum().backward()
    assert steps.grad is not None
    matches = (inputs.ids["kinds"] == inputs.ids["category"].unsqueeze(1)) & (inputs.ids["kinds"] >= 0)
    last = matches & (matches.flip(1).cumsum(1).flip(1) <= 2)
    assert torch.equal(steps.grad.abs().sum(2) > 0, last)


def test_a_behaviour_without_a_table_in_common_is_refused() -> None:
    with pytest.raises(ConfigError, match="no feature of the behaviour `how` reads the table of a feature in"):
        din(behaviours={"how": ["how"]})


def test_only_the_searched_features_are_compared() -> None:
    assert din().compares == ()
    assert din(**SEARCH).compares == ("kinds", "category")
    assert set(din().reads) == set(SPEC.sequences)
