"""Makes the folder of a run that never was: labels drawn from known probabilities, and logits that get closer to them.

Only for tests, and to look at the report: `python tests/helpers/fake_run.py FOLDER` writes a run and its report there.
"""

import json
import math
import pathlib
import random
import sys

import torch
import yaml

from raymtl.config.tasks import Task
from raymtl.objectives.metrics.evaluate import EvalMetrics

TASKS = {
    "click": Task(truth="click_p"),
    "cart": Task(parent="click", truth="cart_p"),
    "buy": Task(parent="cart", truth="buy_p"),
    "dwell_s": Task(kind="count", truth="dwell_mean"),
}
SCENARIOS = ["search", "feed", "live", "other"]
ROWS = 24_000_000
EPOCHS = 2


def evaluation(skill: float, tasks: dict[str, Task], scenarios: list[str], rows: int = 60_000) -> dict:
    """Metrics of a model that knows the share `skill` of what can be known; `live` has no buys at all."""
    g = torch.Generator().manual_seed(7)
    metrics = EvalMetrics(tasks, scenarios)
    names = list(tasks)
    scenario = torch.multinomial(torch.tensor([0.45, 0.4, 0.12, 0.03]), rows, replacement=True, generator=g)
    interest = torch.randn(rows, generator=g)
    truth, logits, labels = (torch.zeros(rows, len(names)) for _ in range(3))
    before = torch.ones(rows)
    for t, (name, task) in enumerate(tasks.items()):
        noise = torch.randn(rows, generator=g)
        if task.kind == "binary":
            logit = (-1.6, -2.0, -1.4)[t % 3] + 0.9 * interest + 0.5 * noise + 0.25 * (scenario == 0)
            chance = torch.sigmoid(logit) * (truth[:, t - 1] if task.parent else 1.0)
            draw = (torch.rand(rows, generator=g) < torch.sigmoid(logit)).float() * (before if task.parent else 1.0)
            if name == "buy":
                draw *= scenario != 2
                chance = chance * (scenario != 2)
            before, truth[:, t], labels[:, t] = draw, chance, draw
            base = torch.logit(chance.mean())
            known = torch.logit(chance.clamp(1e-6)).clamp(-12)
            error = 1.1 * (1 - skill) * torch.randn(rows, generator=g)
            logits[:, t] = base + skill * (known - base) + error + 0.08 * t * (1 - 0.5 * skill)
        else:
            mean = torch.exp(0.8 + 0.5 * interest + 0.3 * noise)
            truth[:, t], labels[:, t] = mean, torch.poisson(mean, generator=g)
            logits[:, t] = 1.0 + skill * (mean.log() - 1.0) + 0.4 * (1 - skill) * torch.randn(rows, generator=g)
    observed = torch.rand(rows, len(names), generator=g) < 0.98
    metrics.update(
        logits,
        labels,
        observed,
        torch.ones(rows),
        torch.ones(rows, dtype=torch.bool),
        scenario,
        torch.arange(rows) // 25,
        truth,
    )
    return metrics.compute()


def write_run(
    folder: pathlib.Path, evals: int = 6, finished: bool = True, tasks: dict[str, Task] | None = None
) -> dict:
    """Write config.yaml, metrics.jsonl with `evals` evaluations and, if `finished`, result.json, which is also returned."""
    tasks = tasks or TASKS
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "name": folder.name,
        "data": {
            "path": "s3://logs/impressions",
            "train": {"start": "2026-11-01", "end": "2026-11-14"},
            "eval": {"start": "2026-11-15", "end": "2026-11-15"},
            "scenario": {"column": "page", "values": SCENARIOS[:-1]},
        },
        "tasks": {name: task.model_dump() for name, task in tasks.items()},
        "model": {"preset": "aitm", "order_loss": {"alpha": 0.6}},
        "train": {"workers": 4, "batch_size": 8192, "epochs": EPOCHS},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    chance = random.Random(0)
    final, lines = None, []
    start = 1.0e9 * 1.79
    points = 480
    total = ROWS * max(evals, 1) / 6
    for i in range(1, points + 1):
        rows = round(total * i / points)
        skill = 0.72 * (1 - math.exp(-3.0 * rows / ROWS))
        losses = {
            name: (0.52, 0.195, 0.087, 2.4)[t % 4]
            * (1 + 0.25 * math.exp(-9 * rows / ROWS) - 0.13 * skill)
            * chance.gauss(1, 0.03 * (1 + t % 4))
            for t, name in enumerate(tasks)
        }
        lines.append(
            {
                "kind": "train",
                "step": rows // 8192,
                "rows": rows,
                "loss": sum(losses.values()),
                "losses": losses,
                "order": 0.004 * (1 - skill),
                "lr": 1e-3,
                "rows_per_s": 61_000 * chance.gauss(1, 0.04) * (0.4 if i % 80 < 2 else 1),
                "data_wait": min(abs(chance.gauss(0.04, 0.02)) + (0.5 if i % 80 < 2 else 0), 1.0),
                "time": start + rows / 58_000,
            }
        )
        if evals and i % (points // evals) == 0:
            final = evaluation(skill, tasks, SCENARIOS)
            lines.append(
                {
                    "kind": "eval",
                    "step": rows // 8192,
                    "rows": rows,
                    "epoch": int(EPOCHS * (i - 1) / points),
                    "units": i // 20,
                    "metrics": final,
                    "time": start + rows / 58_000 + 12,
                }
            )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rest = {key: value for key, value in (final or {}).items() if key != "tasks"}
    result = {
        "status": "finished",
        "metrics": {"eval": final["tasks"] if final else {}, "scenarios": {}, **rest},
        "rows_trained": total,
        "rows_left_out": 1_312,
        "rows_per_s": 60_400.0,
        "steps": total // 8192,
        "starts": 1,
        "seconds": 431.2,
        "workers": 4,
        "config_hash": "9f2c61d07be45a1c3d",
        "data_range": {"train": ["2026-11-01", "2026-11-14"], "eval": ["2026-11-15", "2026-11-15"]},
        "packages": {"ray": "2.60.0", "torch": "2.13.0", "torchrec": "1.8.0"},
    }
    if finished:
        (folder / "result.json").write_text(json.dumps(result))
    return result


if __name__ == "__main__":
    from rich import print as show

    from raymtl.reports.html import write_report
    from raymtl.reports.terminal import metric_table

    torch.set_num_threads(1)
    outcome = write_run(pathlib.Path(sys.argv[1]))
    print(write_report(sys.argv[1]))
    show(metric_table(outcome))
