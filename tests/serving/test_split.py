"""User part and item part of every model say together what the whole model says, and the user's share is done once."""

import pytest
import torch
from torch import Tensor, nn

from raymtl.config.model import Model
from raymtl.models.inputs import ModelInput
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.models.slots import RefineSlot
from raymtl.serving.split import Features, SplitRanker, to_model_input
from tests.helpers import model_zoo

NAMES = ["user", "item", "items", "kinds", "carts", "age", "hour", "price"]
SIDES = {
    "sequences and user": ["user", "items", "kinds", "carts", "age", "hour"],
    "user alone": ["user", "age"],
    "no user": [],
}
INDEX = torch.tensor([0, 0, 1, 1, 1, 2, 2])


def features(inputs: ModelInput, names: list[str], rows: Tensor | slice, scenario: bool) -> Features:
    pooled = dict(zip(model_zoo.SPEC.pooled, inputs.pooled.split(list(model_zoo.SPEC.pooled.values()), 1), strict=True))
    return Features(
        {n: x[rows] for n, x in pooled.items() if n in names},
        {n: inputs.dense[rows, k] for k, n in enumerate(model_zoo.SPEC.dense) if n in names},
        {n: (x[rows], lengths[rows]) for n, (x, lengths) in inputs.sequences.items() if n in names},
        inputs.scenario[rows] if scenario else None,
        {n: ids[rows] for n, ids in inputs.ids.items() if n in names},
    )


def parts(name: str, user: list[str]) -> tuple[Features, Features, ModelInput]:
    """Three users, seven candidates of theirs, and the two side by side."""
    of_user, of_item = model_zoo.rows_of(name, 3), model_zoo.rows_of(name, 7, seed=5)
    item = [n for n in NAMES if n not in user]
    a, b, c = (
        features(of_user, user, slice(None), True),
        features(of_item, item, slice(None), False),
        features(of_user, user, INDEX, True),
    )
    both = Features(c.pooled | b.pooled, c.dense | b.dense, c.sequences | b.sequences, c.scenario, c.ids | b.ids)
    return a, b, to_model_input(model_zoo.SPEC, both)


def check(model: Ranker, name: str, user: list[str]) -> SplitRanker:
    of_user, of_item, both = parts(name, user)
    with torch.no_grad():
        split = SplitRanker(model, model_zoo.SPEC, user)
        found = split.item(split.user(of_user), INDEX, of_item)
        expected = model(both)
    # Of the probabilities, which is what is promised; logits of these wild weights reach the hundreds
    torch.testing.assert_close(model.predictions(found), model.predictions(expected), rtol=1e-6, atol=1e-6)
    return split


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("name", model_zoo.MODELS)
def test_the_parts_predict_what_the_full_model_predicts(name: str, sides: str) -> None:
    check(model_zoo.stirred(name, tasks=None).eval(), name, SIDES[sides])


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("mmoe", {"products"}),
        ("ple", {"products"}),
        ("aitm", {"products"}),
        ("esmm", {"products"}),
        ("dupn", {"products"}),
        ("nfwfm", {"products", "pooled", "dense"}),  # bi-interaction multiplies user and item
        ("m2m", {"products", "pooled", "dense", "scenario"}),  # knowledge is read row by row
        (
            "pepnet",
            {"products", "x", "pooled", "dense", "scenario"},
        ),  # the gates are of each candidate, and scale all of x
        (
            "din",
            {"products", *(f"encoded.{n}" for n in range(4)), "pooled"},
        ),  # steps and which are there, of two histories
        ("din_search", {"products", *(f"encoded.{n}" for n in range(5)), "pooled"}),
        ("dtrn", {"encoded.0", "encoded.1", "pooled", "dense"}),  # each candidate asks the encoded steps
    ],
)
def test_how_deep_each_model_is_cut(name: str, state: set[str]) -> None:
    user = SIDES["sequences and user"]
    split = SplitRanker(model_zoo.stirred(name), model_zoo.SPEC, user)
    with torch.no_grad():
        assert set(split.user(parts(name, user)[0])) == state


class Counted(nn.Module):
    """A sequence slot that tells for how many rows it ran."""

    def __init__(self, slot: nn.Module):
        super().__init__()
        self.slot, self.rows = slot, 0
        self.reads, self.width, self.compares = slot.reads, slot.width, slot.compares

    def forward(self, inputs: ModelInput) -> Tensor:
        self.rows += len(inputs.pooled)
        return self.slot(inputs)


@pytest.mark.parametrize(("user", "rows"), [(SIDES["sequences and user"], 3), (["user", "age"], 7)])
def test_sequences_of_the_user_are_read_once_per_user(user: list[str], rows: int) -> None:
    model = model_zoo.stirred("dupn")
    split = SplitRanker(model, model_zoo.SPEC, user)
    of_user, of_item, _ = parts("dupn", user)
    model.sequence = counted = Counted(model.sequence)
    with torch.no_grad():
        split.item(split.user(of_user), INDEX, of_item)
    assert counted.rows == rows


class Doubled(RefineSlot):
    """A slot from outside, which knows tensors alone."""

    def __init__(self, context: object):
        super().__init__()
        self.width = context.width

    def forward(self, x: Tensor, inputs: ModelInput) -> Tensor:
        return 2 * x


def test_a_slot_without_precomputed_support_gets_the_full_x() -> None:
    raw = {
        "preset": "mmoe",
        "refine": {"type": "custom", "path": f"{__name__}:Doubled"},
        "sequence": {"type": "pooled"},
    }
    model = model_zoo.stir(build_ranker(Model.model_validate(raw), model_zoo.FUNNEL, model_zoo.SPEC, {})).eval()
    check(model, "mmoe", SIDES["sequences and user"])
