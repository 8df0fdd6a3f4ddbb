"""Numbers as vectors, and projected vectors: the formulas of docs/formulas.md §17, and their place before the slots."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raymtl.config.model import Model
from raymtl.config.numbers import AutoDis, Piecewise
from raymtl.config.presets import apply_preset
from raymtl.data import rules
from raymtl.embeddings.spec import input_spec
from raymtl.models.encoding import AutoDiscretisation, Encoding, PiecewiseLinear
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import build_ranker
from tests.helpers.model_zoo import FUNNEL, compare_with_export, stir
from tests.helpers.small_data import make_config

EDGES = [[-1.0, 0.0, 0.5, 4.0], [0.25, 1.0, 2.0]]
SPEC = InputSpec(
    pooled={"item": 4, "text": 3},
    dense=("plain", "soft", "steps", "sharp", "soft_too"),
    dense_fill=(0.0, 0.5, -2.0, 0.0, 1.5),
    embed={
        "soft": AutoDis(type="autodis", width=4, buckets=3),
        "steps": Piecewise(type="piecewise", edges=EDGES[0]),
        "sharp": AutoDis(type="autodis", width=2, buckets=5, temperature=0.1),
        "soft_too": AutoDis(type="autodis", width=4, buckets=3),
    },
    project={"text": 6},
)


def rows(n: int, seed: int = 1, nulls: float = 0.0) -> ModelInput:
    generator = torch.Generator().manual_seed(seed)
    dense = 2 * torch.randn(n, 5, generator=generator)
    dense[torch.rand(n, 5, generator=generator) < nulls] = torch.nan
    return ModelInput(torch.randn(n, 7, generator=generator), dense)


def element(x: float, edges: list[float], t: int) -> float:
    """Equation 1 of Gorishniy et al. for t = 1 … T."""
    low, high, last = edges[t - 1], edges[t], len(edges) - 1
    if x < low and t > 1:
        return 0.0
    if x >= high and t < last:
        return 1.0
    return (x - low) / (high - low)


def test_u1_piecewise_linear_equals_the_paper() -> None:
    x = torch.cat((3 * torch.randn(50, 2), torch.tensor([[-1.0, 1.0], [0.0, 2.0], [4.0, 0.25], [1e6, -1e6]])))
    found = PiecewiseLinear(EDGES)(x)
    expected = [
        [element(float(v), edges, t) for v, edges in zip(row, EDGES, strict=True) for t in range(1, len(edges))]
        for row in x
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_u2_piecewise_linear_is_continuous_and_tells_all_numbers_apart() -> None:
    x = torch.linspace(-3, 6, 2001).unsqueeze(1)
    found = PiecewiseLinear(EDGES[:1])(x)
    steps = found.diff(dim=0)
    assert steps.min() >= 0
    assert steps.max() < 0.02
    assert (steps.sum(1) > 0).all()


def by_hand(module: AutoDiscretisation, x: Tensor, temperature: float) -> Tensor:
    made = []
    for f in range(x.shape[1]):
        h = x[:, f : f + 1] * module.weight[f] + module.bias[f]
        h = torch.where(h > 0, h, 0.01 * h)
        z = h @ module.mix[f].T + 0.1 * h
        made.append((z / temperature).softmax(1) @ module.vectors[f])
    return torch.cat(made, 1)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_u3_autodis_equals_the_formula_written_out(temperature: float) -> None:
    module = stir(AutoDiscretisation(3, AutoDis(type="autodis", width=4, buckets=5, temperature=temperature)))
    x = torch.randn(9, 3)
    torch.testing.assert_close(module(x), by_hand(module, x, temperature))


def test_u4_each_feature_gets_its_own_vector_in_the_order_of_the_configuration() -> None:
    encoding, inputs = stir(Encoding(SPEC, learns_nulls=False)), rows(7)
    made = encoding(inputs)
    assert [*encoding.spec.pooled.items()] == [
        ("item", 4), ("text", 6), ("soft", 4), ("steps", 3), ("sharp", 2), ("soft_too", 4),
    ]  # fmt: skip
    assert encoding.spec.dense == ("plain",)
    assert torch.equal(made.dense, inputs.dense[:, :1])
    soft, sharp = (next(m for m in encoding.numbers if getattr(m, "_temperature", 0) == t) for t in (1.0, 0.1))
    pair = by_hand(soft, inputs.dense[:, [1, 4]], 1.0)
    expected = torch.cat(
        (
            inputs.pooled[:, :4],
            inputs.pooled[:, 4:] @ encoding.projections[0].weight.T,
            pair[:, :4],
            PiecewiseLinear(EDGES[:1])(inputs.dense[:, 2:3]),
            by_hand(sharp, inputs.dense[:, 3:4], 0.1),
            pair[:, 4:],
        ),
        1,
    )
    torch.testing.assert_close(made.pooled, expected)


@pytest.mark.parametrize("learned", [False, True])
def test_u5_a_null_is_its_fill_or_learned(learned: bool) -> None:
    encoding, inputs = stir(Encoding(SPEC, learned)), rows(40, nulls=0.3)
    missing = inputs.dense.isnan()
    filled = torch.where(missing, torch.tensor(SPEC.dense_fill), inputs.dense)
    plain = Encoding(SPEC, False)
    plain.load_state_dict({k: v for k, v in encoding.state_dict().items() if k != "null"})
    expected = plain(ModelInput(inputs.pooled, filled)).pooled
    made = encoding(inputs)
    assert torch.equal(made.dense.isnan(), missing[:, :1])  # the input slot's own learned value
    if not learned:
        torch.testing.assert_close(made.pooled, expected)
        return
    of_number = {"soft": 1, "steps": 2, "sharp": 3, "soft_too": 4}
    nulls = dict(zip(encoding._names, encoding.null.split(encoding._widths), strict=True))
    parts = made.pooled.split([*encoding.spec.pooled.values()], 1)
    for name, found, there in zip(
        encoding.spec.pooled, parts, expected.split([*encoding.spec.pooled.values()], 1), strict=True
    ):
        where = (
            missing[:, of_number[name] : of_number[name] + 1]
            if name in of_number
            else torch.zeros(40, 1, dtype=torch.bool)
        )
        torch.testing.assert_close(found, torch.where(where, nulls.get(name, found), there))
    made.pooled.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoding.parameters())


def test_u6_a_null_vector_is_projected_to_zeros() -> None:
    inputs = rows(3)
    inputs.pooled[1, 4:] = 0
    made = stir(Encoding(SPEC, False))(inputs).pooled[:, 4:10]
    assert made.abs().amax(1).gt(0).tolist() == [True, False, True]


def test_the_sides_of_a_request_give_what_the_whole_gives() -> None:
    encoding, inputs = stir(Encoding(SPEC, True)), rows(6, nulls=0.2)
    whole = dict(
        zip(encoding.spec.pooled, encoding(inputs).pooled.split([*encoding.spec.pooled.values()], 1), strict=True)
    )
    dense = dict(zip(SPEC.dense, inputs.dense.unbind(1), strict=True))
    pooled = dict(zip(SPEC.pooled, inputs.pooled.split([4, 3], 1), strict=True))
    for names in (("item", "steps", "soft_too"), ("text", "soft", "sharp", "plain"), ("item",), ("plain",)):
        made, left = encoding.by_name(*({n: v for n, v in part.items() if n in names} for part in (pooled, dense)))
        assert set(made) | set(left) == set(names)
        for name, value in made.items():
            assert torch.equal(value, whole[name])


@pytest.mark.parametrize("learned", [False, True])
def test_models_read_the_vectors_and_export(learned: bool) -> None:
    missing = "learned" if learned else "fill"
    raw: dict[str, Any] = {"preset": "mmoe", "input": {"type": "concat", "missing": missing}}
    model = stir(build_ranker(Model(**apply_preset(raw)), FUNNEL, SPEC, {}), 3).eval()
    assert model.input.width == sum(model.encoding.spec.pooled.values()) + 1
    compare_with_export(model, rows(5, 2, 0.2 * learned), lambda n: rows(n, n, 0.2 * learned))
    model.train()(rows(64, 3, 0.2 * learned)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_edges_are_in_the_units_of_the_column() -> None:
    edges = [0.1, 0.7, 3.3, 1000.1, 1e7, 1e7 + 1]
    embed = {"type": "piecewise", "edges": edges}
    raw = {"kind": "dense", "transform": "log1p", "mean": 2.0, "std": 3.0, "clip": [0.05, None], "embed": embed}
    config = make_config({"item": {"kind": "id"}, "price": raw})
    spec = input_spec(config)
    values = rules.scaled(np.array([0.05, *edges], np.float32), config.features["price"])
    found = Encoding(spec, False)(ModelInput(torch.zeros(7, 16), torch.tensor(values).unsqueeze(1))).pooled[:, 16:]
    assert found[0, 0] < 0
    torch.testing.assert_close(found[1:5], torch.ones(4, 5).tril(-1), rtol=0, atol=1e-6)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ({"embed": {"type": "piecewise", "edges": [1, 3, 2]}}, "2.0 follows 3.0; list the edges in ascending order"),
        ({"embed": {"type": "piecewise", "edges": [1, 2]}}, "at least 3"),
        (
            {"clip": [0, 5], "embed": {"type": "piecewise", "edges": [1, 2, 7]}},
            "embed.edges has 7.0, outside of clip [0.0, 5.0]; no value reaches it: remove it",
        ),
    ],
)
def test_wrong_edges_are_refused(feature: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make_config({"item": {"kind": "id"}, "price": {"kind": "dense", **feature}})
    assert words in str(caught.value)
