"""Measures what `docs/metrics.md` states about accuracy and speed: `python tests/objectives/measure_metrics.py`.

One thread, about a minute. Prints two Markdown tables.
"""

import time

import torch
from sklearn.metrics import roc_auc_score

from raymtl.config.tasks import Task
from raymtl.objectives.metrics import bins
from raymtl.objectives.metrics.evaluate import EvalMetrics

CASES = [  # name, rows, base rate, centre and spread of the logits
    ("trained, base rate 2e-4", 2_000_000, 2e-4, -8.5, 1.2),
    ("trained, base rate 5 %", 1_000_000, 0.05, -3.0, 1.0),
    ("barely trained, spread 0.17", 1_000_000, 2e-3, -6.0, 0.17),
    ("untrained, spread 0.005", 1_000_000, 2e-4, -8.0, 0.005),
    ("untrained, spread 0.0001", 1_000_000, 2e-4, -8.0, 1e-4),
    ("saturated, spread 5 around 25", 1_000_000, 2e-3, 25.0, 5.0),
    ("constant", 1_000_000, 2e-3, -8.0, 0.0),
]


def draw(rows: int, rate: float, centre: float, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    positive = torch.rand(rows, generator=g) < rate
    return centre + spread * (torch.randn(rows, generator=g) + 0.7 * positive), positive


def by_keys(logits: torch.Tensor, positive: torch.Tensor) -> float:
    counts = torch.zeros(2, bins.BINS, dtype=torch.float64)
    ones = torch.ones(len(logits), dtype=torch.float64)
    for slot in bins.slots(bins.keys(logits)):
        counts.view(-1).scatter_add_(0, positive.long() * bins.BINS + slot, ones)
    return bins.auc(*counts).auc


def by_thresholds(logits: torch.Tensor, positive: torch.Tensor, thresholds: int) -> float:
    """The usual binned AUC: bins of equal width over the probability."""
    place = (torch.sigmoid(logits) * thresholds).long().clamp(max=thresholds - 1)
    n, p = (torch.bincount(place[side], minlength=thresholds).double() for side in (~positive, positive))
    return float((p * (n.cumsum(0) - 0.5 * n)).sum() / (n.sum() * p.sum()))


def accuracy(repeats: int = 5) -> None:
    print(
        "| scores | rows | positives | largest error here | 200 bins over p | 100 000 bins over p |\n|---|---|---|---|---|---|"
    )
    for name, rows, rate, centre, spread in CASES:
        errors: list[tuple[float, ...]] = []
        for seed in range(repeats):
            logits, positive = draw(rows, rate, centre, spread, seed)
            exact = roc_auc_score(positive, logits)
            found = (
                by_keys(logits, positive),
                by_thresholds(logits, positive, 200),
                by_thresholds(logits, positive, 100_000),
            )
            errors.append(tuple(abs(value - exact) for value in found))
        worst = " | ".join(f"{max(column):.1e}" for column in zip(*errors, strict=True))
        print(f"| {name} | {rows:,} | {int(positive.sum()):,} | {worst} |")


def speed(rows: int = 4_000_000) -> None:
    tasks = {"click": Task(), "cart": Task(parent="click"), "buy": Task(parent="cart")}
    print("\n| rows per batch | scenarios | with GAUC | million rows/s |\n|---|---|---|---|")
    for size, scenarios, grouped in (
        (2048, 1, False),
        (8192, 1, False),
        (8192, 1, True),
        (8192, 20, True),
        (65536, 1, True),
    ):
        g = torch.Generator().manual_seed(0)
        batch = {
            "logits": torch.randn(size, 3, generator=g) - torch.tensor([3.0, 4.0, 6.0]),
            "labels": (torch.rand(size, 3, generator=g) < 0.02).float(),
            "observed": torch.rand(size, 3, generator=g) < 0.9,
            "weight": torch.ones(size),
            "valid": torch.ones(size, dtype=torch.bool),
            "scenario": torch.randint(0, scenarios, (size,), generator=g),
        }
        groups = [torch.randint(0, 10**6, (size,), generator=g) if grouped else None for _ in range(8)]
        metrics = EvalMetrics(tasks, [f"s{i}" for i in range(scenarios)])
        metrics.update(**batch)
        begin = time.perf_counter()
        for i in range(rows // size):
            metrics.update(**batch, group=groups[i % 8])
        rate = rows / (time.perf_counter() - begin)
        print(f"| {size:,} | {scenarios} | {'yes' if grouped else 'no'} | {rate / 1e6:.1f} |")


def reading(rows: int = 2_000_000) -> None:
    """Seconds to read the metrics of one task off its counters and its sample, with and without requests of ten rows."""
    g = torch.Generator().manual_seed(0)
    every, request = torch.ones(rows, dtype=torch.bool), torch.arange(rows) // 10
    batch = {
        "logits": torch.randn(rows, 1, generator=g),
        "labels": (torch.rand(rows, 1, generator=g) < 0.1).float(),
        "observed": every.unsqueeze(1),
        "weight": torch.ones(rows),
        "valid": every,
        "group": torch.randint(0, rows // 100, (rows // 10,), generator=g)[request],
    }
    seconds = []
    for more in ({}, {"request": request}) * 2:  # the second time warm
        metrics = EvalMetrics({"click": Task()}, [], with_requests=bool(more))
        metrics.update(**batch, **more)
        begin = time.perf_counter()
        metrics.compute()
        seconds.append(time.perf_counter() - begin)
    print(f"\nReading the metrics of {rows:,} rows: {seconds[2]:.2f} s, with requests {seconds[3]:.2f} s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    accuracy()
    speed()
    reading()
