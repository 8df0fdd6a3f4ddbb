"""Weights of the balancing methods by hand, and what becomes of a task without labels (L1, L2, L6)."""

import math

import pytest
import torch

from raymtl.config.slots.penalties import KLBound, OrderLoss
from raymtl.config.task_kinds import BaseRate
from raymtl.config.tasks import Task
from raymtl.objectives.balance.balancer import build_balancer
from raymtl.objectives.balance.base import Balance, BalanceContext, build
from raymtl.objectives.balance.famo import FAMO
from raymtl.objectives.balance.gradnorm import GradNorm
from raymtl.objectives.losses import TaskLosses
from raymtl.objectives.tasks.binary import entropy
from tests.helpers.balance_cases import BUY, CLICK, KINDS, TWO, balancer, gram_of, method, section, step

# Fixed and entropy


def test_default_is_no_balancer_at_all() -> None:
    assert build_balancer(section("fixed"), TWO, {}) is None


def test_l1_fixed_is_the_weighted_sum() -> None:
    w = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    shares = torch.stack([(w * torch.tensor([1.0, 2.0, 3.0])).sum(), (w**2).sum()])
    total = balancer("fixed", cosine_every_steps=5)(shares, (4 * w).sum(), torch.ones(2).bool(), [w])
    total.backward()
    assert w.grad is not None
    expected = torch.tensor([1.0, 2.0, 3.0]) + 3 * 2 * w.detach() + 4
    torch.testing.assert_close(w.grad, expected)


def test_entropy_weights_by_hand() -> None:
    found = method("entropy")(step([0.3, 0.05])).weights
    h = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    rare = -0.01 * math.log(0.01) - 0.99 * math.log(0.99)
    assert found.tolist() == pytest.approx([1 / h, 3 / rare], rel=1e-5)
    assert not method("entropy").needs_losses


def test_entropy_takes_the_first_losses_of_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymtl.objectives.balance.start.START_STEPS", 2)
    tasks = {"click": Task(base_rate=0.5), "spend": Task(kind="real", weight=2.0)}
    made = method("entropy", tasks)
    assert made.needs_losses
    weights = [
        made(step(losses, active=active)).weights.tolist()
        for losses, active in [
            ([0.6, 9.0], [True, False]),  # no label: nothing known, nothing taken in
            ([0.6, 4.0], [True, True]),
            ([0.6, 2.0], [True, True]),
            ([0.6, 50.0], [True, True]),
        ]
    ]
    assert [w[0] for w in weights] == pytest.approx([1 / math.log(2)] * 4)
    assert [w[1] for w in weights] == pytest.approx([2.0, 2 / 4, 2 / 3, 2 / 3])


ALIKE = BaseRate(6.0, terms=(0.3, 0.9, 2.7))
"""Amounts that are nearly all alike: the best density of their logarithms is above 1, so their best loss is negative."""
ONE_CLASS = BaseRate(0.0, terms=(1.0, 0.0, 0.0))


@pytest.mark.parametrize("type_", ["entropy", "uncertainty", "famo", "gradnorm"])
@pytest.mark.parametrize(
    ("task", "rate"),
    [
        (Task(kind="ziln"), ALIKE),
        (Task(kind="fraction"), BaseRate(0.5)),
        (Task(kind="watch_time"), BaseRate(20.0)),
        (Task(kind="multiclass", classes=3), ONE_CLASS),
    ],
)
def test_no_start_loss_ruins_the_weights(type_: str, task: Task, rate: BaseRate) -> None:
    tasks = {"click": Task(base_rate=0.5), "t": task}
    made = build(section(type_), BalanceContext(tasks, {"t": rate}))
    for loss in (0.02, 0.01, 0.005):
        weights = made(step([0.6, loss])).weights
        assert weights.isfinite().all()
        assert (weights >= 0).all()


@pytest.mark.parametrize("kind", ["ziln", "fraction", "watch_time"])
def test_entropy_measures_what_exceeds_the_bound(kind: str) -> None:
    tasks = {"t": Task.model_validate({"kind": kind})}
    made = build(section("entropy"), BalanceContext(tasks, {"t": ALIKE if kind == "ziln" else BaseRate(0.5)}))
    assert made.needs_losses
    assert made(step([0.02])).weights.item() == pytest.approx(50)


# Uncertainty


def slope(made: Balance, loss: float, s: float) -> float:
    """Derivative of the term by s."""
    with torch.no_grad():
        made.shift.fill_(s).sub_(made.start)
    made.zero_grad()
    choice = made(step([loss]))
    (choice.weights * loss).sum().add(choice.extra).backward()
    return made.shift.grad.item()


@pytest.mark.parametrize("loss", [0.02, 0.17, 0.6, 5.0])
def test_l2_uncertainty_rests_where_it_should(loss: float) -> None:
    for kind, rest in (("binary", math.log(2 * loss)), ("count", math.log(2 * loss)), ("real", math.log(loss))):
        made = method("uncertainty", {"t": Task.model_validate({"kind": kind})})
        assert slope(made, loss, rest) == pytest.approx(0.0, abs=1e-6)
        assert slope(made, loss, rest - 0.1) < 0 < slope(made, loss, rest + 0.1)


def test_l2_uncertainty_does_not_stick_on_its_way() -> None:
    """From a weight of 1 to 1 / (2 · 0.02); with s clamped at 0, as in some ports, losses below ½ leave it at 0."""
    made = method("uncertainty", {"t": Task()}, start="one")
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        choice = made(step([0.02]))
        (choice.weights * 0.02).sum().add(choice.extra).backward()
        optimizer.step()
    assert made(step([0.02])).weights.item() == pytest.approx(25, rel=1e-2)


def test_l2_uncertainty_starts_at_rest_or_at_one() -> None:
    tasks = {"a": Task(base_rate=0.03, weight=2.0), "b": Task(kind="real")}
    resting, ones = (method("uncertainty", tasks, start=s) for s in ("base_rate", "one"))
    assert resting(step([1.0, 1.0])).weights.tolist() == pytest.approx([2 / (2 * entropy(0.03)), 1.0])
    assert ones(step([1.0, 1.0])).weights.tolist() == pytest.approx([2.0, 1.0])
    choice = resting(step([1.0, 1.0]))
    loss = torch.tensor([entropy(0.03), 1.0])
    ((choice.weights * loss).sum() + choice.extra).backward()
    assert resting.shift.grad is not None
    assert resting.shift.grad.tolist() == pytest.approx([0.0, -0.5], abs=1e-6)  # d/ds of e^-s/2 + s/2 where e^-s/2 = 1


def test_l6_uncertainty_leaves_both_parts_of_a_task_out() -> None:
    made = method("uncertainty")
    choice = made(step([0.4, 0.0], active=[True, False]))
    assert choice.weights[1] == 0
    total = (choice.weights * torch.tensor([0.4, 0.0])).sum() + choice.extra
    total.backward()
    assert made.shift.grad is not None
    assert made.shift.grad[1] == 0
    assert made.shift.grad[0] != 0


# FAMO


def test_famo_by_hand() -> None:
    """Two steps, β = 2, γ = 0.1, no smoothing; the losses of the step before give the weights."""
    made = method(
        "famo", {"a": Task(kind="real"), "b": Task(kind="real", weight=10.0)}, lr=2.0, decay=0.1, smoothing=0.0
    )
    first = made(step([4.0, 1.0])).weights
    assert first.tolist() == pytest.approx([2 * 0.25 / 1.25, 10 * 2 / 1.25])  # z = ½: in the ratio 1/4 : 1, sum 2
    second = made(step([2.0, 1.0])).weights  # a fell by log 2 against step 1, b not; not yet seen by ξ
    assert second.tolist() == pytest.approx(first.tolist())
    slope = 0.5 * math.log(2) / 2  # z_a (δ_a − mean δ)
    xi = -2.0 * slope
    assert made.logits.tolist() == pytest.approx([xi, -xi])
    z = 1 / (1 + math.exp(-2 * xi))
    third = made(step([2.0, 1.0])).weights
    a, b = z / 2.0, 1 - z
    assert third.tolist() == pytest.approx([2 * a / (a + b), 10 * 2 * b / (a + b)])
    assert made.logits.tolist() == pytest.approx([xi - 2 * 0.1 * xi, -(xi - 2 * 0.1 * xi)])


def test_famo_noise_telescopes() -> None:
    """Where the losses end is what moves ξ, not the noise on the way (γ = 0; small β keeps the Jacobian)."""
    smooth, noisy = (method("famo", lr=0.01, decay=0.0, smoothing=0.0) for _ in range(2))
    for n in range(200):
        level = [0.5 * 0.999**n, 0.05]
        jitter = [0.0, 0.0] if n == 199 else torch.randn(2).mul(0.3).tolist()
        smooth(step(level))
        noisy(step([x * math.exp(j) for x, j in zip(level, jitter, strict=True)]))
    torch.testing.assert_close(smooth.logits, noisy.logits, rtol=0, atol=1e-6)
    fell = [math.log(entropy(CLICK) / level[0]), math.log(entropy(BUY) / level[1])]
    assert smooth.logits[0].item() == pytest.approx(-0.01 * (fell[0] - fell[1]) / 4, rel=1e-2)


def test_famo_weights_do_not_depend_on_the_batch_they_weigh() -> None:
    rare, rich = (method("famo", smoothing=0.9) for _ in range(2))
    assert torch.equal(rare(step([0.5, 0.01])).weights, rich(step([0.5, 0.2])).weights)
    assert not torch.equal(rare(step([0.5, 0.05])).weights, rich(step([0.5, 0.05])).weights)


# GradNorm


def test_gradnorm_moves_towards_the_target_and_keeps_the_sum() -> None:
    made = method("gradnorm", alpha=0.0)
    assert isinstance(made, GradNorm)
    for _ in range(400):
        weights = made(step([0.4, 0.02], gram_of([4.0, 0.0], [0.0, 1.0]))).weights / made.task_weights
        assert weights.sum().item() == pytest.approx(2.0, rel=1e-5)
    assert weights.tolist() == pytest.approx([0.4, 1.6], abs=0.05)  # λ‖g‖ alike
    assert method("gradnorm")(step([0.4, 0.02])).weights.tolist() == [1.0, 3.0]


def test_gradnorm_gives_more_to_who_learns_slowly() -> None:
    """Equal gradients; the first task is at half of its start loss, the second at all of it: norms as (2/3)^α to (4/3)^α."""
    made = method("gradnorm", alpha=1.0)
    for _ in range(400):
        weights = made(step([entropy(CLICK) / 2, entropy(BUY)])).weights / made.task_weights
    assert weights.tolist() == pytest.approx([2 / 3, 4 / 3], abs=0.05)


def test_gradnorm_first_step_by_hand() -> None:
    made = method("gradnorm", alpha=0.0, lr=0.1)
    made(step([entropy(CLICK), entropy(BUY)], gram_of([3.0, 0.0], [0.0, 1.0])))
    # norms 3 and 1, target 2: slopes +3 and −1; through the softmax ½(3 − 1), ½(−1 − 1); Adam's first step is lr · sign
    assert made.mean.tolist() == pytest.approx([0.1 * 1.0, 0.1 * -1.0])
    assert made.logits.tolist() == pytest.approx([-0.1, 0.1], rel=1e-4)


# Tasks without labels


@pytest.mark.parametrize("type_", ["famo", "pcgrad", "cagrad", "gradnorm"])
def test_l6_a_task_without_labels_is_left_out(type_: str) -> None:
    """The others fare as if it were not there, step by step; its own state waits."""
    three = {**TWO, "late": Task(base_rate=0.5)}
    options = {"decay": 0.0} if type_ == "famo" else {}
    with_it, without = method(type_, three, **options), method(type_, TWO, **options)
    g = torch.Generator().manual_seed(2)
    for _ in range(5):
        losses = torch.rand(2, generator=g).tolist()
        gradients = torch.randn(2, 3, generator=g).double()
        gram = torch.zeros(3, 3).double()
        gram[:2, :2] = gradients @ gradients.T
        a, b = with_it(step([*losses, 0.0], gram, [True, True, False])), without(step(losses, gram[:2, :2]))
        ours, theirs = (c.weights if c.at_embeddings is None else c.at_embeddings for c in (a, b))
        if type_ == "gradnorm":  # its weights sum to the number of all tasks
            ours, theirs = ours / ours[0], theirs / theirs[0]
        torch.testing.assert_close(ours[:2], theirs)
    for name, value in with_it.named_buffers():
        if name in ("logits", "mean", "square", "updates"):
            assert value[2] == 0, name
    if type_ == "famo":
        assert with_it.level[2] == entropy(0.5)


@pytest.mark.parametrize("type_", KINDS)
def test_l6_a_step_without_any_label_moves_nothing(type_: str) -> None:
    made = balancer(type_, **({"cosine_every_steps": 1} if type_ == "fixed" else {}))
    before = {n: b.clone() for n, b in made.named_buffers() if n != "method.streams"}
    x = torch.randn(3, 2, requires_grad=True)
    total = made((x * 0).sum(0), (x * 0).sum(), torch.zeros(2).bool(), [x])
    total.backward()
    assert not x.grad.any()  # type: ignore[union-attr]
    assert all(torch.equal(b, before[n]) for n, b in made.named_buffers() if n in before)
    assert all(p.grad is not None and not p.grad.any() for p in made.parameters())


# Counts


def test_counts_are_weighed_by_what_is_above_their_least_loss() -> None:
    """The Poisson loss can be negative; a learned variance would then run off to minus infinity."""
    tasks = {"click": Task(), "views": Task(kind="count")}
    losses = TaskLosses(tasks, OrderLoss(), KLBound())
    y = torch.tensor([[1.0, 7.0], [0.0, 20.0], [1.0, 0.0], [0.0, 5.0]])
    mask, weight, valid = torch.ones(4, 2).bool(), torch.tensor([1.0, 2.0, 1.0, 1.0]), torch.tensor([1, 1, 1, 0]).bool()
    counts = losses.counts(mask, weight, valid)
    lower_bound = losses.lower_bound(y, mask, weight, valid, counts[:-1])
    expected = (7 - 7 * math.log(7) + 2 * (20 - 20 * math.log(20)) + 0) / 3
    assert lower_bound.tolist() == pytest.approx([0.0, expected])
    perfect = y.clone().clamp_min(1e-9).log()
    found = losses(perfect, y, mask, weight, valid, counts[:-1], counts[-1]).per_task
    assert found[1].item() == pytest.approx(expected, rel=1e-5)
    assert found[1] < 0


@pytest.mark.parametrize("type_", ["gradnorm", "famo"])
def test_a_task_of_weight_zero_takes_nothing_from_the_others(type_: str) -> None:
    """Its loss does not fall, which these methods would answer with ever more weight."""
    three = {**TWO, "watched": Task(base_rate=0.5, weight=0.0)}
    alone, beside = method(type_, TWO), method(type_, three)
    for n in range(200):
        falling = [0.5 * 0.99**n, 0.06 * 0.995**n]
        expected = alone(step(falling, gram_of([1.0, 0.0], [0.0, 0.2]))).weights
        found = beside(step([*falling, 0.7], gram_of([1.0, 0.0], [0.0, 0.2], [0.3, 0.3]))).weights
    torch.testing.assert_close(found[:2], expected)
    assert found[2] == 0


def test_famo_is_finite_at_a_loss_of_zero() -> None:
    made = method("famo", {"a": Task(kind="real"), "b": Task(kind="count")}, smoothing=0.5)
    assert isinstance(made, FAMO)
    for losses in ([0.0, 3.0], [1.0, 0.0], [0.0, 0.0], [2.0, 2.0]):
        assert made(step(losses)).weights.isfinite().all()
    assert made.logits.isfinite().all()
