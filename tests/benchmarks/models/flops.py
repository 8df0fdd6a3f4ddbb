"""CPU time per FLOP of every preset against mmoe: the model alone, above the tables, forward and backward.

python -m tests.benchmarks.models.flops [--rows 2048] [--repeats 5]

FLOPs are those of matrix products, attention and the LSTM; what is element by element shows only in the time. One
thread, random inputs, the configurations of jobs/conf.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.embeddings.tables import describe_lookup
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import build_ranker

CONF = Path(__file__).parents[3] / "jobs" / "conf"
STEPS = 20
IDS = 10
"""Values of an attribute that a search compares: each has two steps."""


def _lstm(x: Any, w_input: Any, w_state: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Both products of every step; x [L, B, in], weights [4H, in] and [4H, H]."""
    return 2 * x[0] * x[1] * (w_input[0] * w_input[1] + w_state[0] * w_state[1])


def _attention(q: Any, k: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Scores and their product with the values; q [B, heads, L, d], k [B, heads, S, d]."""
    return 4 * q[0] * q[1] * q[2] * k[2] * q[3]


_MORE = {  # CPU kernels that torch's counter does not know
    torch.ops.aten.mkldnn_rnn_layer: _lstm,
    torch.ops.aten.mkldnn_rnn_layer_backward: lambda *a, **k: 2 * _lstm(*a, **k),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, *a, **k: (
        5 * _attention(*a, **k) // 2
    ),
}


def inputs(spec: InputSpec, rows: int, compared: Sequence[str] = ()) -> ModelInput:
    """Random inputs, with IDs of the features that the sequence slot compares."""
    lengths = torch.randint(0, STEPS + 1, (rows,))
    mask = (torch.arange(STEPS) < lengths.unsqueeze(1)).unsqueeze(-1)
    sequences = {n: ((torch.randn(rows, STEPS, d) * mask).requires_grad_(), lengths) for n, d in spec.sequences.items()}
    ids = {n: torch.randint(0, IDS, (rows, STEPS) if n in sequences else (rows,)) for n in compared}
    return ModelInput(
        torch.randn(rows, sum(spec.pooled.values()), requires_grad=True),
        torch.randn(rows, len(spec.dense)),
        sequences,
        torch.randn(rows, sum(spec.bias.values()), requires_grad=True) if spec.bias else None,
        torch.ones(rows, dtype=torch.bool),
        torch.randint(0, max(spec.scenarios, 1), (rows,)),
        {n: torch.where(mask.squeeze(2), i, -1) if n in sequences else i for n, i in ids.items()},
    )


def measure(config: Config, rows: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    spec = describe_lookup(config).spec
    ranker = build_ranker(config.model, config.active_tasks(), spec, {})
    batch = inputs(spec, rows, ranker.sequence.compares)

    def step() -> None:
        ranker(batch).square().mean().backward()

    step()
    with FlopCounterMode(display=False, custom_mapping=_MORE) as counter:
        step()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    flops = counter.get_total_flops()
    return {
        "mflop_per_row": flops / rows / 1e6,
        "us_per_row": min(times) / rows * 1e6,
        "gflop_per_s": flops / min(times) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    names = sorted(
        (p.stem for p in CONF.glob("*.yaml") if p.stem not in ("base", "example")), key=lambda n: n != "mmoe"
    )
    for name in names:
        runs = [measure(load_config(str(CONF / f"{name}.yaml")), options.rows, options.repeats) for _ in range(2)]
        best = max(runs, key=lambda r: r["gflop_per_s"])
        found[name] = best | {
            "time_per_flop_over_mmoe": (found or {name: best})["mmoe"]["gflop_per_s"] / best["gflop_per_s"]
        }
        print(json.dumps({"preset": name, **{k: round(v, 3) for k, v in found[name].items()}}), flush=True)
    print(json.dumps({"worst": round(max(f["time_per_flop_over_mmoe"] for f in found.values()), 2)}))


if __name__ == "__main__":
    main()
