"""How strong the prior of a recalibration should be (`calibration.prior_positives`; docs/calibration.md).

python -m tests.benchmarks.models.calibration_prior [--seeds 5] [--fits 8] [--methods platt,isotonic]

A model is trained for each seed. The levels of the scenarios then change by nothing, by little or by much. Maps are fitted on
some users of the next day, as many as have about so many clicks, and judged on all rows of the day after it, by their true
probabilities: what is left is the error of the model and of the map, without that of the labels. The calibration error is the
mean over the scenarios; all numbers are means over the seeds and fits.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from raymtl.objectives.calibration.counts import ScoreCounts
from raymtl.objectives.calibration.fit import fit_maps
from raymtl.objectives.calibration.maps import Method, apply_map
from raymtl.objectives.metrics.calibration_error import calibration_error
from tests.benchmarks.models.calibration import (
    DAYS,
    FITTED,
    FOLLOWING,
    SCENARIOS,
    SHIFT,
    TRAIN,
    Trained,
    config_of,
    day_of,
)
from tests.helpers.small_data import write_file

SHIFTS = {"nothing": 0 * SHIFT, "little": 0.2 * SHIFT, "much": SHIFT}
POSITIVES = [50, 100, 300, 1000, 5000]
PRIORS = [10.0, 50.0, 200.0, 500.0, 1000.0, 2000.0]
USERS_OF_FIT, ROWS = 3_000, 100_000


@dataclass
class Day:
    """A day's rows [N]: the model's logits, the logits of the true probabilities before a shift, scenarios and users."""

    logits: torch.Tensor
    truth: torch.Tensor
    scenario: torch.Tensor
    user: torch.Tensor


@dataclass
class Judged:
    """What is measured on a day."""

    excess: float
    error: float


def days_of(seed: int) -> tuple[Day, Day]:
    """The day to fit on and the one after it, of a model that was trained on the days before."""
    with tempfile.TemporaryDirectory() as folder:
        tables = {}
        for n, day in enumerate(DAYS):
            tables[day] = day_of(ROWS, n, seed, 0 * SHIFT)
            write_file(Path(folder) / "logs", tables[day], day)
        model = Trained(config_of(f"{folder}/logs", len(TRAIN) * ROWS, None, False, "none"))
        found = []
        for day in (FITTED, FOLLOWING):
            logits, *_, scenario = model.logits(day)
            p, user = (torch.from_numpy(tables[day].column(name).to_numpy().copy()) for name in ("p_click", "user"))
            found.append(Day(logits[:, 0].double(), p.logit(), scenario, user))
        return found[0], found[1]


def counted(day: Day, logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> ScoreCounts:
    counts = ScoreCounts(1, len(SCENARIOS))
    ones = torch.ones(int(rows.sum()))
    counts.update(logits[rows, None], labels[rows, None], ones[:, None] > 0, ones, day.scenario[rows])
    return counts


def judged(day: Day, logits: torch.Tensor, p: torch.Tensor) -> Judged:
    counts = counted(day, logits, p, torch.ones(len(p), dtype=torch.bool))
    parts = counts.weights[0]
    errors = [calibration_error(part) or 0.0 for part in parts]
    error = float(torch.tensor(errors, dtype=torch.float64) @ parts.sum((1, 2)) / parts.sum())
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, p)
    return Judged(float(loss - torch.nn.functional.binary_cross_entropy_with_logits(p.logit(), p)), error)


def fitted_on(day: Day, p: torch.Tensor, positives: int, random: np.random.Generator) -> ScoreCounts:
    """The labels of users with about so many positives."""
    wanted = positives / float(p.sum())
    users = torch.from_numpy(random.random(USERS_OF_FIT) < wanted)
    labels = torch.from_numpy(random.random(len(p))) < p
    return counted(day, day.logits, labels.float(), users[day.user])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fits", type=int, default=8, help="by seed, shift and number of positives")
    parser.add_argument("--methods", default="platt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    found: dict[tuple[str, str, int, float], list[tuple[Judged, Judged]]] = {}
    for seed in range(options.seeds):
        fit_day, following = days_of(seed)
        random = np.random.default_rng([seed, 5])
        for name, shift in SHIFTS.items():
            fit_p, p = ((d.truth + torch.from_numpy(shift)[d.scenario]).sigmoid() for d in (fit_day, following))
            before = judged(following, following.logits, p)
            for positives in POSITIVES:
                for _ in range(options.fits):
                    counts = fitted_on(fit_day, fit_p, positives, random)
                    for method in options.methods.split(","):
                        for by in ("all", "scenario"):
                            for prior in PRIORS:
                                after = judged(following, mapped(counts, method, by, prior, following), p)
                                key = (f"{method}, by {by}", name, positives, prior)
                                found.setdefault(key, []).append((before, after))
    dist.destroy_process_group()
    print_table(found)


def mapped(counts: ScoreCounts, method: Method, by: str, prior: float, day: Day) -> torch.Tensor:
    """The calibrated logits of a day."""
    maps = fit_maps(counts, method, by == "scenario", prior)[:, 0].double()
    return apply_map(method, maps[day.scenario if by == "scenario" else torch.zeros_like(day.scenario)], day.logits)


def print_table(found: dict[tuple[str, str, int, float], list[tuple[Judged, Judged]]]) -> None:
    print("calibration error after | change of the log loss in 1e-5 | share of fits that raise it, by prior")
    print("map | levels change by | positives | error before | " + " | ".join(f"{prior:g}" for prior in PRIORS))
    for name, shift, positives in dict.fromkeys(key[:3] for key in found):
        cells = []
        for prior in PRIORS:
            pairs = found[name, shift, positives, prior]
            error = np.mean([after.error for _, after in pairs])
            change = np.array([after.excess - before.excess for before, after in pairs]) * 1e5
            cells.append(f"{error:.4f} {change.mean():+.0f} {(change > 0).mean():.2f}")
        before = np.mean([b.error for b, _ in found[name, shift, positives, PRIORS[0]]])
        print(f"{name} | {shift} | {positives} | {before:.4f} | {' | '.join(cells)}")


if __name__ == "__main__":
    main()
