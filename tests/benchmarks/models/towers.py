"""Towers, PEPNet, and what was tried for the towers and left out: quality and cost (docs/models.md).

python -m tests.benchmarks.models.towers [--seeds 3] [--rows-per-day 50000] [--only pepnet] [--cost]

Quality: the logs, training and judging of `showcases.py`, on the synthetic logs with their three scenarios; one process, one
thread. `--cost` times the models of jobs/conf/mmoe.yaml and pepnet.yaml alone, as `flops.py` does, against the default towers.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raymtl.config.load import config_from_dict, load_config, section_from
from raymtl.models.couplers.ait import AIT
from raymtl.models.couplers.none import NoCoupler
from raymtl.models.inputs import ModelInput, Pick
from raymtl.models.layers import GroupedMLP, Heads, glorot_
from raymtl.models.slots import Context
from raymtl.models.towers.mlp import MLPTowers
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from tests.benchmarks.models.flops import CONF, measure
from tests.benchmarks.models.showcase_cases import FUNNEL, MMOE, SEPARATE, TRUTH, Values, Variant
from tests.benchmarks.models.showcase_judges import Columns, expected_auc
from tests.benchmarks.models.showcases import DAYS, configuration
from tests.benchmarks.training.inprocess import train

PRIOR = ["user_id", "user_segment", "item_id", "brand"]
WIDTHS = [128, 64, 32]
TOWERS: Values = {**SEPARATE, "towers": {"hidden": WIDTHS}}
PPNET: Values = {"type": "ppnet", "hidden": WIDTHS, "features": PRIOR}
EPNET: Values = {"type": "epnet", "features": ["device"]}
CROSS: Values = {"type": "ait", "mode": "cross"}


class WideTowers(MLPTowers):
    """MLP towers, and one element more: a linear function of some features for each task (Wide & Deep, Cheng et al. 2016)."""

    def __init__(self, context: Context, *, hidden: Sequence[int], features: Sequence[str]):
        super().__init__(context, hidden=hidden)
        self._wide = Pick(context.spec, features)
        self.wide = nn.Parameter(torch.zeros(context.heads, self._wide.width))
        self.width += 1

    def forward(self, h: Tensor, inputs: ModelInput) -> Tensor:
        wide = nn.functional.linear(self._wide(inputs), self.wide)
        return torch.cat((super().forward(h, inputs), wide.unsqueeze(2)), 2)


class WideHeads(NoCoupler):
    """Adds the last element of the towers to the logits."""

    def __init__(self, context: Context):
        super().__init__(context)
        self.head = Heads(context.heads, context.width - 1)

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.head(h[..., :-1]) + h[..., -1]


class LayersAfter(AIT):
    """AIT with an MLP of each task between the transfer and the logit."""

    def __init__(self, context: Context, *, width: int, hidden: Sequence[int], mode: str = "self"):
        super().__init__(context, width=width, mode=mode)
        self.after = GroupedMLP(len(context.tasks), width, hidden)
        self.head = Heads(len(context.tasks), hidden[-1])
        for t, task in enumerate(context.tasks.values()):
            if task.parent is not None and mode == "self":  # as in AIT, whose h1 makes z small at the start
                glorot_(self.head.weight.data[t : t + 1])

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.head(self.after(self.transfer(h.transpose(0, 1))).transpose(0, 1))


def own(cls: type, **options: Any) -> Values:
    return {"type": "custom", "path": f"tests.benchmarks.models.towers:{cls.__name__}", "options": options}


VARIANTS: dict[str, Variant] = {
    "mmoe": Variant(MMOE),
    "single_task": Variant({"preset": "single_task"}),
    "same towers": Variant(TOWERS),
    "pepnet": Variant({**SEPARATE, "refine": EPNET, "towers": PPNET}),
    "epnet alone": Variant({**TOWERS, "refine": EPNET}),
    "ppnet alone": Variant({**SEPARATE, "towers": PPNET}),
    "mmoe, epnet": Variant({**MMOE, "refine": EPNET}),
    "norm: layer": Variant({**SEPARATE, "towers": {"hidden": WIDTHS, "norm": "layer"}}),
    "activation: gelu": Variant({**SEPARATE, "towers": {"hidden": WIDTHS, "activation": "gelu"}}),
    "activation: silu": Variant({**SEPARATE, "towers": {"hidden": WIDTHS, "activation": "silu"}}),
    "activation: leaky_relu": Variant({**SEPARATE, "towers": {"hidden": WIDTHS, "activation": "leaky_relu"}}),
    "dropout .2 on buy": Variant({**SEPARATE, "towers": {"hidden": WIDTHS, "per_task": {"buy": {"dropout": 0.2}}}}),
    "smaller tower for buy": Variant({**SEPARATE, "towers": {"hidden": WIDTHS, "per_task": {"buy": {"hidden": [32]}}}}),
    "wide part": Variant(
        {**SEPARATE, "towers": own(WideTowers, hidden=WIDTHS, features=PRIOR), "coupler": own(WideHeads)}
    ),
    "aitm": Variant({"preset": "aitm", "towers": {"hidden": [128, 64]}, "coupler": {"type": "ait", "width": 64}}),
    "aitm, layers after": Variant(
        {"preset": "aitm", "towers": {"hidden": [128, 64]}, "coupler": own(LayersAfter, width=64, hidden=[32])}
    ),
    "aitm cross": Variant({"preset": "aitm", "towers": {"hidden": [128, 64]}, "coupler": {**CROSS, "width": 64}}),
    "aitm cross, layers after": Variant(
        {
            "preset": "aitm",
            "towers": {"hidden": [128, 64]},
            "coupler": own(LayersAfter, width=64, hidden=[32], mode="cross"),
        }
    ),
    "aitm cross, narrow transfer": Variant(
        {"preset": "aitm", "towers": {"hidden": [128, 64, 16]}, "coupler": {**CROSS, "width": 16}}
    ),
}

RIVALS = {
    "pepnet": "same towers",
    "epnet alone": "same towers",
    "ppnet alone": "same towers",
    "norm: layer": "same towers",
    "activation: gelu": "same towers",
    "activation: silu": "same towers",
    "activation: leaky_relu": "same towers",
    "dropout .2 on buy": "same towers",
    "smaller tower for buy": "same towers",
    "wide part": "same towers",
    "aitm, layers after": "aitm",
    "aitm cross, layers after": "aitm cross",
    "aitm cross, narrow transfer": "aitm cross",
}
"""What differs from a model in one thing; the others are compared with `mmoe`."""


def judge(columns: Columns) -> dict[str, float]:
    """AUC of every task, and the mean of the gaps to the best achievable, over all rows and within the smallest scenario."""
    found, gaps, small = {}, [], []
    live = columns["scenario"] == "live"
    for task in FUNNEL:
        truth = columns[f"p_{task}"]
        found[f"{task} AUC"] = expected_auc(truth, columns[task])
        gaps.append(expected_auc(truth, truth) - found[f"{task} AUC"])
        small.append(expected_auc(truth, truth, live) - expected_auc(truth, columns[task], live))
    return {**found, "mean gap": float(np.mean(gaps)), "mean gap, live": float(np.mean(small))}


def run(variant: Variant, place: Path, seed: int) -> dict[str, float]:
    raw = configuration(variant, place, seed)
    alone = variant.model.get("preset") == "single_task"
    columns: Columns = {}
    weights = seconds = 0.0
    for subset in [[task] for task in FUNNEL] if alone else [None]:
        result = train(config_from_dict({**raw, "tasks_subset": subset}), 1, (*TRUTH, "scenario"))
        columns |= result["predictions"]
        weights += result["dense_parameters"]
        seconds += result["rows"] / result["rows_per_cpu_s"]
    return {**judge(columns), "weights": weights, "CPU seconds": seconds}


def quality(only: Sequence[str], seeds: int, rows_per_day: int) -> None:
    names = [name for name in VARIANTS if not only or name in only]
    found: dict[tuple[str, int], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            place = Path(folder) / str(seed)
            values = {"seed": seed, "days": DAYS, "rows_per_day": rows_per_day, "users": 2000, "items": 500}
            write_logs(section_from(SynthSpec, values, [], "the logs"), str(place / "logs"))
            for name in names:
                found[name, seed] = run(VARIANTS[name], place, seed)
                print(json.dumps({"model": name, "seed": seed, **found[name, seed]}), flush=True)
    keys = list(found[names[0], 0])
    heads = ["model", *keys, "rival", "mean gap, difference", "mean gap, live, difference"]
    print(f"\n| {' | '.join(heads)} |\n" + "|---" * len(heads) + "|")
    for name in names:
        cells = [_cell([found[name, seed][key] for seed in range(seeds)]) for key in keys]
        rival = RIVALS.get(name, "mmoe")
        differences = ["", ""]
        if rival in names and rival != name:
            differences = [
                _cell([found[name, seed][key] - found[rival, seed][key] for seed in range(seeds)], sign=True)
                for key in ("mean gap", "mean gap, live")
            ]
        print(f"| {' | '.join([name, *cells, rival, *differences])} |")


def _cell(values: Sequence[float], sign: bool = False) -> str:
    mean = float(np.mean(values))
    if abs(mean) >= 1:
        return f"{mean:,.0f}"
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return (f"{mean:+.4f}" if sign else f"{mean:.4f}") + spread


COSTS: dict[str, tuple[str, list[str]]] = {
    "default": ("mmoe", []),
    "norm: layer": ("mmoe", ["model.towers.norm=layer"]),
    "activation: gelu": ("mmoe", ["model.towers.activation=gelu"]),
    "activation: silu": ("mmoe", ["model.towers.activation=silu"]),
    "activation: leaky_relu": ("mmoe", ["model.towers.activation=leaky_relu"]),
    "per_task, another dropout": ("mmoe", ["model.towers.per_task={buy: {dropout: 0.2}}", "model.towers.dropout=0.1"]),
    "per_task, other widths": ("mmoe", ["model.towers.per_task={buy: {hidden: [64, 32]}}"]),
    "ppnet": ("mmoe", [f"model.towers={{type: ppnet, hidden: [32], features: [{', '.join(PRIOR)}]}}"]),
    "refine: epnet": ("mmoe", ["model.refine={type: epnet}"]),
    "refine: task_features": (
        "mmoe",
        ["model.refine={type: task_features, reads: {click: [user_id, item_id]}}", "model.coupler={type: none}"],
    ),
    "pepnet": ("pepnet", []),
    "pepnet's towers without its gates": (
        "pepnet",
        [
            "model={preset: shared_bottom, trunk: {hidden: []}, towers: {hidden: [128, 64, 32]}, sequence: {type: pooled}}"
        ],
    ),
}


def cost(rows: int, repeats: int) -> None:
    torch.set_num_threads(1)
    base: float | None = None
    for name, (preset, sets) in COSTS.items():
        config = load_config(str(CONF / f"{preset}.yaml"), sets)
        best = min((measure(config, rows, repeats) for _ in range(2)), key=lambda found: found["us_per_row"])
        base = base or best["us_per_row"]
        ratio = best["us_per_row"] / base
        print(
            json.dumps({"towers": name, **{k: round(v, 2) for k, v in best.items()}, "ratio": round(ratio, 2)}),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows-per-day", type=int, default=50_000)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--rows", type=int, default=2048, help="of --cost")
    parser.add_argument("--repeats", type=int, default=9, help="of --cost")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.cost:
        cost(options.rows, options.repeats)
    else:
        quality(options.only, options.seeds, options.rows_per_day)


if __name__ == "__main__":
    main()
