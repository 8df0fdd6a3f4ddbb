"""How good a found formula is, how fast the search is, and whether the off-policy intervals hold.

    python -m tests.benchmarks.tuning.score oracle      # against the order by the true gain, on users that nothing was fitted on
    python -m tests.benchmarks.tuning.score coverage    # of the 95 % intervals of IPS, SNIPS and DR

Sessions are drawn with known probabilities of click and buy, which the "model" predicts with errors of scale and with noise. The
oracle ranks by the true expected gain: no formula can do better.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from raymtl.config.score import Formula
from raymtl.objectives.metrics.ranked import top_shares
from raymtl.tuning.score.estimate import off_policy
from raymtl.tuning.score.search import best_of, search
from raymtl.tuning.score.sessions import Sessions

GAIN = {"click": 1.0, "buy": 20.0}
FORMULAS: dict[str, dict[str, Any]] = {
    "product": {"type": "product", "powers": {"click": 1, "buy": 0.1}},
    "sum": {"type": "sum", "weights": {"click": 1, "buy": 1}},
    "buckets": {"type": "buckets", "by": "buy", "edges": [0.001 * n for n in range(1, 16)], "then": "click"},
}


def formula(name: str) -> Any:
    """One of `FORMULAS`."""
    return TypeAdapter(Formula).validate_python(FORMULAS[name])


def world(users: int, lists: int, rows: int, seed: int, noise: float, at: int = 5) -> tuple[Sessions, torch.Tensor]:
    """Sessions of users with `lists` lists of `rows` rows each, and the true expected gain of each row [N].

    What is clicked is not what is bought: half of the items attract clicks, the other half buyers.
    """
    random = np.random.default_rng(seed)
    count = users * lists * rows
    lure = random.normal(size=count)
    mood = np.repeat(random.normal(size=users * lists), rows)
    click = 1 / (1 + np.exp(-(-2.0 + 0.9 * lure + 0.5 * mood)))
    buy = click / (1 + np.exp(-(-2.5 - 0.9 * lure + 0.9 * random.normal(size=count) + 0.5 * mood)))
    clicked = random.random(count) < click
    bought = clicked & (random.random(count) < buy / click)

    def predicted(p: np.ndarray, power: float, factor: float) -> torch.Tensor:
        seen = np.clip(factor * p**power * np.exp(noise * random.normal(size=count)), 1e-6, 0.999)
        return torch.from_numpy(seen.astype(np.float32))

    number = np.arange(count) // rows
    sessions = Sessions(
        outputs={"click": predicted(click, 0.8, 0.7), "buy": predicted(buy, 1.2, 3.0)},
        tasks=list(GAIN),
        weights=torch.tensor(list(GAIN.values()), dtype=torch.float64),
        labels=torch.from_numpy(np.stack([clicked, bought], 1).astype(np.float64)),
        lists=torch.from_numpy(number),
        user=torch.from_numpy(np.arange(users * lists) // lists),
        at=at,
    )
    return sessions, torch.from_numpy(GAIN["click"] * click + GAIN["buy"] * buy)


def oracle(arguments: argparse.Namespace) -> None:
    """The session value of found formulas as a share of the oracle's."""
    for name in FORMULAS:
        shares, alone, speed = [], [], []
        for seed in range(arguments.seeds):
            sessions, gain = world(arguments.users, 5, 20, seed, noise=0.1)
            half = torch.arange(sessions.users) % 2 == 0
            rows = half[sessions.user][sessions.lists]
            fit, judge = sessions.part(half[sessions.user]), sessions.part(~half[sessions.user])
            began = time.process_time()
            trials, _ = search(formula(name), fit, arguments.trials, seed)
            seconds = time.process_time() - began
            true = gain[~rows]
            best = float((top_shares(judge.lists, judge.count, true.float(), judge.at) * true).sum())
            shares.append(float((judge.shares(best_of(trials).formula) * true).sum()) / best)
            alone.append(float((judge.shares(formula(name)) * true).sum()) / best)
            speed.append(60 * len(trials) / seconds)
        found = ", ".join(f"{share:.4f}" for share in shares)
        before = ", ".join(f"{share:.4f}" for share in alone)
        print(
            f"{name}: {found} of the oracle's value on {judge.users:,} held-out users ({before} before); "
            f"{min(speed):,.0f} trials a CPU minute on {len(fit.lists):,} rows"
        )


def coverage(arguments: argparse.Namespace) -> None:
    """How often the 95 % intervals hold the true value, over worlds with a randomised slice."""
    spec = formula("product")
    sessions, gain = world(40_000, 3, 10, 10**6, noise=0.3, at=3)
    true = float((sessions.shares(spec) * gain).sum()) / sessions.count
    inside: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for seed in range(arguments.worlds):
        drawn, _ = world(arguments.users, 3, 10, seed, noise=0.3, at=3)
        random = np.random.default_rng([seed, 1])
        propensity = torch.from_numpy(np.clip(0.3 * np.exp(0.5 * random.normal(size=len(drawn.lists))), 0.1, 0.9))
        shown = torch.from_numpy(random.random(len(drawn.lists))) < propensity
        slice_ = replace(drawn, labels=drawn.labels * shown.unsqueeze(1), propensity=propensity, shown=shown)
        for method, numbers in off_policy(slice_, spec).by_list.items():
            mean, half = slice_.mean(numbers)
            assert half is not None
            inside.setdefault(method, []).append(abs(mean - true) <= half)
            widths.setdefault(method, []).append(half)
    for method, held in inside.items():
        share = float(np.mean(held))
        error = 1.96 * (share * (1 - share) / len(held)) ** 0.5
        print(
            f"{method}: {100 * share:.1f} % ± {100 * error:.1f} of {len(held):,} worlds, "
            f"half width {np.mean(widths[method]):.4f} of a value of {true:.4f}"
        )


def main() -> None:
    """One of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["oracle", "coverage"])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worlds", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (oracle if arguments.what == "oracle" else coverage)(arguments)


if __name__ == "__main__":
    main()
