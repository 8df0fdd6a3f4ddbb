"""G-tests: what holds for every model (docs/formulas.md §1.8)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.models.layers import Gates, Heads
from raymtl.models.ranker import Ranker, build_ranker, start_logit
from raymtl.models.trunks.ple import Extraction
from raymtl.objectives.losses import Losses, TaskLosses
from tests.helpers.model_zoo import (
    FUNNEL,
    MODELS,
    PRESETS,
    SPEC,
    compare_with_export,
    config,
    funnel_labels,
    labels,
    large,
    make,
    rows,
    rows_of,
    spec,
    stir,
    stirred,
    take,
    tasks_of,
)

PLAIN = ["single_task", "shared_bottom", "mmoe", "ple", "aitm", "mmoe_ait"]
"""Models whose dropout is that of the grouped layers alone."""

every_model = pytest.mark.parametrize("name", MODELS)
every_preset = pytest.mark.parametrize("name", PRESETS)


def cost(losses: TaskLosses, logits: Tensor, y: Tensor, observed: Tensor) -> Losses:
    weight, valid = torch.ones(len(y)), torch.ones(len(y), dtype=torch.bool)
    counts = losses.counts(observed, weight, valid)
    return losses(logits[:, : y.shape[1]], y, observed, weight, valid, counts[:-1], counts[-1])


def outputs(name: str) -> int:
    return len(tasks_of(name)) + len(make(name).outputs.derived)


def gradients(model: Ranker) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@every_model
def test_g1_permutation(name: str) -> None:
    model, inputs = stirred(name).eval(), rows_of(name, 33)
    order = torch.randperm(33)
    torch.testing.assert_close(model(take(inputs, order)), model(inputs)[order], rtol=1e-5, atol=1e-5)


@every_model
def test_g2_batch_of_one_and_of_none(name: str) -> None:
    model, inputs = stirred(name).eval(), rows_of(name, 7)
    together = model(inputs)
    assert together.shape == (7, outputs(name))
    alone = torch.cat([model(take(inputs, slice(i, i + 1))) for i in range(7)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    none = model.train()(take(inputs, slice(0, 0)))
    assert none.shape == (0, outputs(name))
    none.sum().backward()  # a worker without rows still takes part in every step
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@every_model
def test_g3_a_task_without_labels_moves_nothing(name: str) -> None:
    tasks = tasks_of(name)
    model, inputs, y = stirred(name), rows_of(name, 16), labels(16, len(tasks))
    for t, task in enumerate(tasks):
        only = {n: d.model_copy(update={"weight": float(n == task)}) for n, d in tasks.items()}
        observed = torch.ones(16, len(tasks), dtype=torch.bool)
        with_labels = cost(TaskLosses(only, OrderLoss()), model(inputs), y, observed).total
        assert any(g.any() for g in torch.autograd.grad(with_labels, list(model.parameters()), allow_unused=False))
        observed[:, t] = False
        without = cost(TaskLosses(only, OrderLoss()), model(inputs), y, observed).total
        assert without.item() == 0
        assert not any(g.any() for g in torch.autograd.grad(without, list(model.parameters()), allow_unused=False))


@every_preset
def test_g4_labels_of_masked_rows_are_never_read(name: str) -> None:
    tasks = tasks_of(name)
    model, inputs, y = stirred(name), rows_of(name, 16), labels(16, len(tasks))
    observed = torch.rand(16, len(tasks)) < 0.5
    losses = TaskLosses(tasks, OrderLoss(alpha=0.6))
    found = []
    for junk in (0.0, math.nan, 1e30, -math.inf):
        model.zero_grad()
        total = cost(losses, model(inputs), torch.where(observed, y, junk), observed).total
        total.backward()
        found.append([total.detach(), *gradients(model)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@every_model
def test_g6_every_parameter_learns(name: str) -> None:
    tasks = tasks_of(name)
    model = stirred(name)
    cost(
        TaskLosses(tasks, OrderLoss()),
        model(rows_of(name, 256)),
        labels(256, len(tasks)),
        torch.ones(256, len(tasks)).bool(),
    ).total.backward()
    for parameter_name, p in model.named_parameters():
        assert p.grad is not None, parameter_name
        assert p.grad.any(), parameter_name


@every_model
def test_g7_state_dict_round_trip(name: str) -> None:
    model, other, inputs = stirred(name), make(name, seed=9), rows_of(name, 16)
    assert not torch.equal(model(inputs), other(inputs))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(inputs), other(inputs))


def mixtures(model: Ranker) -> list[torch.nn.Module]:
    return [m for m in model.modules() if isinstance(m, Extraction)] or [
        m for m in model.modules() if isinstance(m, Gates)
    ]


@pytest.mark.parametrize("name", [n for n in MODELS if "mmoe" in n or "omoe" in n or "ple" in n or n == "cgc"])
def test_g8_gates_sum_to_one_in_fp32_under_autocast(name: str) -> None:
    model, inputs = stirred(name), rows_of(name, 64)
    found: list[Tensor] = []
    for m in mixtures(model):
        if isinstance(m, Extraction):
            m.register_forward_hook(lambda m, args, out: found.append(m.mixture(args[0])))
        else:
            m.register_forward_hook(lambda m, args, out: found.append(out))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(inputs)
        assert logits.dtype == torch.float32
    assert len(found) == len(mixtures(model)) > 0
    for weights in found:
        assert weights.dtype == torch.float32
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), rtol=0, atol=1e-6)
    # The first gates read the fp32 input, unless a transformer made it: not one bit of them may depend on autocast.
    under_autocast, found = found, []
    model(inputs)
    if config(name).sequence.type == "none":
        assert torch.equal(found[0], under_autocast[0])


@every_model
def test_autocast_stays_near_full_precision(name: str) -> None:
    model, inputs = stirred(name), rows_of(name, 64)
    exact = model(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(inputs)
        rounded.sum().backward()
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.05 * exact.abs().max()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@every_model
def test_g9_exported_graph_equals_eval(name: str) -> None:
    compare_with_export(stirred(name), rows_of(name, 5), lambda n: rows_of(name, n, seed=n))


@every_preset
def test_g10_task_weight_scales_its_gradient(name: str) -> None:
    tasks = tasks_of(name)
    model, inputs, y = stirred(name), rows_of(name, 32), labels(32, len(tasks))
    observed = torch.rand(32, len(tasks)) < 0.7

    def gradient(weights: list[float]) -> list[Tensor]:
        weighted = {n: d.model_copy(update={"weight": w}) for (n, d), w in zip(tasks.items(), weights, strict=True)}
        total = cost(TaskLosses(weighted, OrderLoss()), model(inputs), y, observed).total
        return list(torch.autograd.grad(total, list(model.parameters())))

    zero, one = [0.0] * len(tasks), [1.0] * len(tasks)
    for t in range(len(tasks)):
        alone = gradient([*zero[:t], 1.0, *zero[t + 1 :]])
        tripled = gradient([*one[:t], 3.0, *one[t + 1 :]])
        for base, single, more in zip(gradient(one), alone, tripled, strict=True):
            torch.testing.assert_close(more - base, 2 * single, rtol=1e-4, atol=1e-6)


@every_preset
def test_g11_overfits_256_rows(name: str) -> None:
    tasks = tasks_of(name)
    torch.manual_seed(3)
    wide = spec(20)
    model = build_ranker(large(name), tasks, wide, dict.fromkeys(tasks, 0.4))
    inputs, y = rows_of(name, 256, spec=wide), funnel_labels(256, tasks)
    losses, observed = TaskLosses(tasks, OrderLoss()), torch.ones_like(y).bool()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        found = cost(losses, model(inputs), y, observed)
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
        if found.per_task.max() < 0.005:
            break
    assert cost(losses, model(inputs), y, observed).per_task.max() < 0.01


@every_model
def test_g12_first_predictions_are_the_base_rates(name: str) -> None:
    tasks = tasks_of(name)
    rates = dict(zip(tasks, [1e-2, 1e-3, 1e-4] * 3, strict=False))
    for seed in range(5):
        torch.manual_seed(seed)
        model = build_ranker(config(name), tasks, SPEC, rates)
        means = model.predictions(model(rows_of(name, 512, seed))).mean(0)
        for mean, rate in zip(means.tolist()[: len(tasks)], rates.values(), strict=True):
            assert abs(mean / rate - 1) < 0.2


def test_g12_holds_for_every_kind_and_for_rates_out_of_range() -> None:
    tasks = {
        "click": Task(),
        "views": Task(kind="count"),
        "rating": Task(kind="real"),
        "spend": Task(kind="real", transform="log1p"),
    }
    rates = {"click": 0.02, "views": 3.5, "rating": -4.0, "spend": 12.0}
    model = build_ranker(config("mmoe"), tasks, SPEC, rates)
    means = model.predictions(model(rows(512))).mean(0)
    torch.testing.assert_close(means, torch.tensor(list(rates.values())), rtol=0.2, atol=0.0)
    for name, task in tasks.items():
        z = torch.full((1, 1), start_logit(task, rates[name]))
        single = build_ranker(config("mmoe"), {name: task}, SPEC, {})
        assert single.predictions(z).item() == pytest.approx(rates[name], rel=1e-5)
    assert all(math.isfinite(start_logit(Task(), rate)) for rate in (0.0, 1.0))
    assert math.isfinite(start_logit(Task(kind="count"), 0.0))


def test_base_rate_falls_back_on_the_task_and_then_on_zero() -> None:
    tasks = {"a": Task(base_rate=0.25), "b": Task(), "c": Task(base_rate=0.25)}
    model = build_ranker(config("mmoe"), tasks, SPEC, {"c": 0.5})
    torch.testing.assert_close(model.coupler.head.bias.detach(), torch.tensor([math.log(1 / 3), 0.0, 0.0]))


def test_towers_with_equal_weights_and_labels_give_equal_logits() -> None:
    model = stirred("shared_bottom")
    for p in (*model.towers.parameters(), *model.coupler.parameters()):
        p.data.copy_(p.data[:1].expand_as(p))
    logits = model(rows(9))
    torch.testing.assert_close(logits, logits[:, :1].expand(-1, 3))


def test_gradient_of_the_bottom_is_the_weighted_sum_over_tasks() -> None:
    model, inputs, y = stirred("shared_bottom"), rows(20), labels(20, 3)
    weights = (1.0, 0.5, 2.0)
    tasks = {n: t.model_copy(update={"weight": w}) for (n, t), w in zip(FUNNEL.items(), weights, strict=True)}
    bottom = list(model.trunk.parameters())
    together = torch.autograd.grad(
        cost(TaskLosses(tasks, OrderLoss()), model(inputs), y, torch.ones_like(y).bool()).total, bottom
    )
    logits = model(inputs)
    alone = [
        torch.autograd.grad(F.binary_cross_entropy_with_logits(logits[:, t], y[:, t]), bottom, retain_graph=True)
        for t in range(3)
    ]
    for i, gradient in enumerate(together):
        torch.testing.assert_close(gradient, sum(w * g[i] for w, g in zip(weights, alone, strict=True)))


def test_heads_are_fp32_whatever_they_read() -> None:
    head, h = stir(Heads(3, 8)), torch.randn(20, 3, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(h), (h.float() * head.weight).sum(-1) + head.bias)


@pytest.mark.parametrize(("name", "layers"), zip(PLAIN, (2, 2, 2, 4, 2, 2), strict=True))
def test_dropout_follows_every_layer_in_training_only(name: str, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = {"trunk": {**config(name).trunk.model_dump(), "hidden": [8, 6], "dropout": 0.1}}
    slots["towers"] = {"hidden": [6, 4], "dropout": 0.2}
    if "ait" in name:
        slots["coupler"] = {"type": "ait", "width": 4, "dropout": 0.3}
    model, rates = stirred(name, **slots), []
    monkeypatch.setattr(F, "dropout", lambda x, p: rates.append(p) or x)
    model(rows(4))
    assert rates == [0.1] * layers + [0.2] * 2 + ([0.3] * 2 if "ait" in name else [])
    model.eval()(rows(4))
    assert len(rates) == layers + (4 if "ait" in name else 2)


def test_dropout_is_random_in_training_only() -> None:
    for name in PLAIN:
        slots = {
            "trunk": {**config(name).trunk.model_dump(), "dropout": 0.5},
            "towers": {"hidden": [4], "dropout": 0.5},
        }
        if "ait" in name:
            slots["coupler"] = {"type": "ait", "width": 4, "dropout": 0.5}
        model, inputs = stirred(name, **slots), rows(32)
        assert not torch.equal(model(inputs), model(inputs))
        model.eval()
        assert torch.equal(model(inputs), model(inputs))
