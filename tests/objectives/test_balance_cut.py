"""Methods at the cut: PCGrad and CAGrad by hand and against plain computations, and the gradients that arrive (L3, L5)."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raymtl.config.slots.penalties import KLBound, OrderLoss
from raymtl.config.tasks import Task
from raymtl.errors import ConfigError
from raymtl.objectives.balance.balancer import Balancer
from raymtl.objectives.balance.base import BalanceContext, build
from raymtl.objectives.balance.cagrad import conflict_averse, norm, worst_mix
from raymtl.objectives.balance.pcgrad import project
from raymtl.objectives.losses import TaskLosses
from tests.helpers.balance_cases import AT_CUT, KINDS, TWO, balancer, gram_of, method, section, step

# PCGrad


def plain_pcgrad(gradients: Tensor, order: Tensor) -> Tensor:
    """The paper's algorithm 1 on the gradients themselves."""
    found = torch.zeros_like(gradients[0])
    for i, own in enumerate(gradients):
        g = own.clone()
        for j in order[i].tolist():
            if j != i and (dot := g @ gradients[j]) < 0:
                g = g - dot / (gradients[j] @ gradients[j]) * gradients[j]
        found = found + g
    return found


@pytest.mark.parametrize("gradients", [([1.0, 0.0], [0.0, 2.0]), ([1.0, 0.5], [2.0, 1.0])])
def test_l3_orthogonal_or_aligned_gradients_are_added(gradients: tuple[list[float], ...]) -> None:
    made = method("pcgrad")
    choice = made(step([1.0, 1.0], gram_of(*gradients)))
    assert choice.at_embeddings is not None
    assert choice.at_embeddings.tolist() == pytest.approx([1.0, 3.0])
    assert choice.weights.tolist() == [1.0, 3.0]


def test_l3_opposing_gradients_by_hand() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]]).double()
    factors = project(g @ g.T, torch.tensor([[0, 1], [0, 1]]))
    # g_1 loses −1/2 of g_2, g_2 loses −1 of g_1
    assert factors.tolist() == pytest.approx([2.0, 1.5])
    assert (factors @ g).tolist() == pytest.approx([0.5, 1.5])
    for seed in range(20):
        pair = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed)).double()
        mixed = project(pair @ pair.T, torch.tensor([[0, 1], [1, 0]])) @ pair
        assert ((pair @ mixed) >= -1e-9).all()


def test_l3_agrees_with_the_plain_algorithm() -> None:
    g = torch.Generator().manual_seed(0)
    for tasks in (3, 5):
        for _ in range(10):
            gradients = torch.randn(tasks, 4, generator=g).double()  # fewer dimensions than tasks: many conflicts
            order = torch.rand(tasks, tasks, generator=g).argsort(1)
            found = project(gradients @ gradients.T, order) @ gradients
            torch.testing.assert_close(found, plain_pcgrad(gradients, order))


def test_pcgrad_meets_the_tasks_in_another_order_each_step() -> None:
    tasks = {f"t{n}": Task() for n in range(4)}
    gradients = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
    one, same, other = (build(section("pcgrad"), BalanceContext(tasks, {}, seed)) for seed in (5, 5, 6))
    gram = gradients @ gradients.T
    drawn = [[m(step([1.0] * 4, gram)).at_embeddings.tolist() for _ in range(8)] for m in (one, same, other)]  # type: ignore[union-attr]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({tuple(x) for x in drawn[0]}) > 3
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(2400):
        one.streams.mul_(6364136223846793005).add_(1442695040888963407)
        row = tuple((one.streams >> 33).argsort(1)[0].tolist())
        seen[row] = seen.get(row, 0) + 1
    assert len(seen) == 24
    assert 60 < min(seen.values()) <= max(seen.values()) < 140  # 100 each, give or take four deviations


# CAGrad


def grams() -> list[Tensor]:
    g = torch.Generator().manual_seed(3)
    found = []
    for tasks, spread, n in itertools.product((2, 3), (0.0, 2.0), range(4)):
        common = torch.randn(20, generator=g) * torch.randn(tasks, 1, generator=g).sign() * (n % 2)
        scale = 10 ** (spread * torch.rand(tasks, 1, generator=g))
        gradients = (torch.randn(tasks, 20, generator=g) + common).double() * scale
        found.append(gradients @ gradients.T)
    return found


def cost(w: Tensor, gram: Tensor, c: float) -> Tensor:
    """What the paper minimises, for every row of w."""
    mean = torch.full((len(gram),), 1 / len(gram), dtype=torch.float64)
    lengths = ((w @ gram) * w).sum(-1).clamp_min(0).sqrt()
    return w @ gram @ mean + c * (mean @ gram @ mean).sqrt() * lengths


def test_l5_c_zero_is_the_mean_gradient_times_their_number() -> None:
    for gram in grams():
        assert torch.equal(conflict_averse(gram, torch.ones(len(gram)).bool(), 0.0), torch.ones(len(gram)).double())
    choice = method("cagrad", c=0.0)(step([1.0, 1.0], gram_of([1.0, 0.0], [-3.0, 0.1])))
    assert choice.at_embeddings is not None
    assert choice.at_embeddings.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_cagrad_finds_the_best_mix(c: float) -> None:
    for gram in grams():
        tasks = len(gram)
        edge = torch.linspace(0, 1, 201, dtype=torch.float64)
        grid = torch.cartesian_prod(*[edge] * (tasks - 1)).view(-1, tasks - 1)
        grid = grid[grid.sum(1) <= 1 + 1e-12]
        grid = torch.cat((grid, 1 - grid.sum(1, keepdim=True)), 1)
        best = cost(grid, gram, c).min().item()
        w = worst_mix(gram, torch.ones(tasks).bool(), c)
        assert (w >= 0).all()
        assert w.sum().item() == pytest.approx(1)
        even = cost(torch.full((tasks,), 1 / tasks, dtype=torch.float64), gram, c).item()
        assert cost(w, gram, c).item() <= best + 1e-4 * (even - best) + 1e-9 * abs(best)


def test_cagrad_stays_in_the_ball_and_helps_the_worst_off() -> None:
    c = 0.5
    for gram in grams():
        tasks = len(gram)
        mean = torch.full((tasks,), 1 / tasks, dtype=torch.float64)
        d = conflict_averse(gram, torch.ones(tasks).bool(), c) / tasks
        assert norm(d - mean, gram).item() <= c * norm(mean, gram).item() * (1 + 1e-6)
        assert (gram @ d).min() >= (gram @ mean).min() - 1e-9 * gram.abs().max()


def test_cagrad_by_hand() -> None:
    # Two opposite gradients of lengths 1 and 3, c = ½: g_0 = −1, so d = −1 ± ½; the worst off is the first: d = −½.
    factors = conflict_averse(gram_of([1.0], [-3.0]), torch.ones(2).bool(), 0.5)
    assert (factors @ torch.tensor([1.0, -3.0]).double()).item() == pytest.approx(2 * -0.5, abs=1e-3)


def test_cagrad_stays_in_the_ball_where_gradients_vanish_or_cancel() -> None:
    """Inner products in fp32 of gradients that almost cancel: more of them than dimensions, opposite ones, tiny ones."""
    g = torch.Generator().manual_seed(4)
    cases = [torch.randn(5, 3, generator=g) for _ in range(10)]
    cases += [torch.tensor(x) for x in ([[1.0], [-1.0]], [[0.0], [1.0]], [[1e-9], [-1.0]], [[1.0, 1e-4], [-1.0, 1e-4]])]
    cases += [torch.zeros(2, 3), 1e-12 * torch.randn(3, 50, generator=g)]
    for gradients in cases:
        tasks = len(gradients)
        factors = conflict_averse((gradients @ gradients.T).double(), torch.ones(tasks).bool(), 0.5).float()
        mean = gradients.mean(0)
        away = factors @ gradients / tasks - mean
        assert away.norm() <= 0.5 * mean.norm() * 1.01 + 1e-6 * gradients.norm()


@pytest.mark.parametrize("type_", ["pcgrad", "cagrad"])
def test_a_gradient_of_zero_is_in_nobodys_way(type_: str) -> None:
    """Though its task has labels."""
    gram = torch.zeros(3, 3)
    gram[:2, :2] = gram_of([1.0, 0.5], [-0.4, 1.0]).float()
    with_it, without = method(type_, {**TWO, "flat": Task(weight=0.0)}), method(type_)
    ours, theirs = with_it(step([1.0] * 3, gram)).at_embeddings, without(step([1.0] * 2, gram[:2, :2])).at_embeddings
    assert ours is not None
    torch.testing.assert_close(ours[:2], theirs)
    assert ours[2] == 0


# The cut


class Small(nn.Module):
    """A ranker's stand-in: two towers over a shared layer, reading pooled, a sequence and (the second one) bias embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.towers = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, pooled: Tensor, sequence: Tensor, bias: Tensor) -> Tensor:
        x = torch.tanh(self.shared(torch.cat((pooled, sequence.sum(1)), 1)))
        return self.towers(x) + torch.stack((torch.zeros(len(bias)), bias.sum(1)), 1)


def small_step(made: Balancer | None, rows: int, bf16: bool = False) -> tuple[Any, ...]:
    """Gradients of the tables' values, of the dense weights, and each task's own at the cut."""
    torch.manual_seed(2)
    model = Small()
    tables = [torch.randn(rows, 4), torch.randn(rows, 3, 2), torch.randn(rows, 1)]
    values = [t.clone().requires_grad_() for t in tables]
    cut = [v * 1.0 for v in values]  # not leaves, as looked-up embeddings are not
    y = (torch.rand(rows, 2) < 0.4).float()
    losses = TaskLosses(TWO | {"buy": Task(weight=3.0, parent="click")}, OrderLoss(alpha=0.7), KLBound())
    mask, weight, valid = torch.ones(rows, 2).bool(), torch.ones(rows), torch.ones(rows).bool()
    counts = losses.counts(mask, weight, valid)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(*cut)
    found = losses(logits, y, mask, weight, valid, counts[:-1], counts[-1])
    parts = [
        torch.autograd.grad(loss, cut, retain_graph=True, materialize_grads=True) for loss in found.per_task_with_grad
    ]
    rest = torch.autograd.grad(found.penalties, cut, retain_graph=True, materialize_grads=True)
    total = found.total if made is None else made(found.per_task_with_grad, found.penalties, counts[:-1] > 0, cut)
    total.backward()
    return [v.grad for v in values], [p.grad for p in model.parameters()], parts, rest


@pytest.mark.parametrize("type_", ["pcgrad", "cagrad"])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_tables_get_the_combination_and_the_dense_weights_the_sum(type_: str, bf16: bool) -> None:
    made = balancer(type_)
    tables, dense, parts, rest = small_step(made, 12, bf16)
    _, plain, _, _ = small_step(None, 12, bf16)
    report = made.report()
    factors = [report["weights"][n] for n in TWO]  # type: ignore[index]
    assert factors != pytest.approx([1.0, 3.0], rel=1e-3)  # the two are in conflict with this seed
    for n, found in enumerate(tables):
        expected = factors[0] * parts[0][n] + factors[1] * parts[1][n] + rest[n]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-2 if bf16 else 1e-6)
    for found, expected in zip(dense, plain, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("type_", KINDS)
@pytest.mark.parametrize("rows", [1, 0])
def test_one_row_and_none(type_: str, rows: int) -> None:
    made = balancer(type_, **({"cosine_every_steps": 1} if type_ in ("fixed", "famo") else {}))
    tables, dense, _, _ = small_step(made, rows)
    for gradient in [*tables, *dense, *(p.grad for p in made.parameters())]:
        assert gradient is not None
        assert gradient.isfinite().all()


@pytest.mark.parametrize("type_", KINDS)
def test_report(type_: str) -> None:
    made = balancer(type_, **({} if type_ in AT_CUT else {"cosine_every_steps": 2}))
    _, _, parts, _ = small_step(made, 12)
    small_step(made, 12)
    report = made.report()
    a, b = (torch.cat([g.flatten() for g in part]) for part in parts)
    cosine = (torch.dot(a, b) / a.norm() / b.norm()).item()
    assert report["gradient_cosine"] == pytest.approx({"click|buy": cosine}, rel=1e-4)
    assert report["gradient_conflict"] == (1.0 if cosine < 0 else 0.0)
    assert set(report["weights"]) == {"click", "buy"}  # type: ignore[arg-type]
    assert made.report() == {}


def test_no_looked_up_embeddings_no_gradients_of_tasks() -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ConfigError, match=r"train\.balance.*set train\.balance\.type"):
        balancer("pcgrad")(x * 1, x.sum(), torch.ones(2).bool(), [torch.zeros(3, 0)])


def test_cosine_is_measured_every_so_many_steps() -> None:
    made = balancer("entropy", cosine_every_steps=3)
    measured = []
    for _ in range(7):
        small_step(made, 4)
        measured.append("gradient_cosine" in made.report())
    assert measured == [True, False, False, True, False, False, True]
