"""Peak memory and CPU time of one meta layer, forward and backward, against the form that makes every row's matrix first.

    python -m tests.benchmarks.models.meta_layer

One task, batch 2048, width 256, knowledge 64. `tower`: one row per group, by outer products; `attention`: 4 experts per
group, by generated matrices in chunks; `by scenario`: the tower where 10 scenarios are all that is known, so that rows share
matrices in blocks. Each form runs in a process of its own; its memory is the peak above what it held before the first step.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import torch
from torch import Tensor

from raymtl.models.trunks.knowledge import RowGroups, ScenarioBlocks
from raymtl.models.trunks.meta import meta_product

CASES = ("tower", "attention", "by scenario")
FORMS = ("meta", "materialised")


def materialised(h: Tensor, s: Tensor, weight: Tensor, weight_of: Tensor) -> Tensor:
    """Every group's own matrix, kept for the backward."""
    w = torch.baddbmm(weight.flatten(1).unsqueeze(1), s.unsqueeze(0), weight_of.flatten(2)).unflatten(
        2, weight.shape[1:]
    )
    return torch.matmul(h, w)


def operands(options: argparse.Namespace) -> tuple[list[Tensor], RowGroups]:
    """h [1, B, ...], s, weight, weight_of, and the groups of the rows."""
    rows, width, known = options.rows, options.width, options.knowledge
    experts = (options.experts,) if options.case == "attention" else ()
    given = [torch.randn(1, rows, *experts, width), torch.randn(rows, known)]
    given += [torch.randn(1, width, width), torch.randn(1, known, width, width)]
    groups = RowGroups()
    if options.case == "by scenario":
        scenario = torch.randint(0, options.scenarios, (rows,))
        given[1] = torch.randn(options.scenarios, known)[scenario]
        if options.form == "meta":
            groups = ScenarioBlocks(scenario, options.scenarios)
            given[1] = torch.randn(options.scenarios, known)[groups.scenario]
    return [g.requires_grad_() for g in given], groups


def step(product: Callable[..., Tensor], given: list[Tensor], groups: RowGroups) -> None:
    h = groups.to_groups(given[0])
    y = product(h.flatten(2, 3) if h.dim() == 5 else h, *given[1:])
    groups.to_rows(y.unflatten(2, h.shape[2:4]) if h.dim() == 5 else y).sum().backward()


def measure(options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    given, groups = operands(options)
    product = meta_product if options.form == "meta" else materialised
    before = psutil.Process().memory_info().rss
    cpu, wall = [], []
    for _ in range(options.steps):
        start, start_cpu = time.perf_counter(), time.process_time()
        step(product, given, groups)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "peak_mib": round((peak - before) / 2**20),
        "cpu_ms": round(min(cpu) * 1e3, 1),
        "wall_ms": round(min(wall) * 1e3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {
        "rows": 2048, "width": 256, "knowledge": 64, "experts": 4, "scenarios": 10, "threads": 1, "steps": 4
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--form", choices=FORMS)
    options = parser.parse_args()
    if options.case and options.form:
        print(json.dumps(measure(options)))
        return
    answer = {}
    for case in CASES:
        answer[case] = {
            form: json.loads(
                subprocess.run(
                    [sys.executable, *sys.argv, "--case", case, "--form", form], check=True, stdout=subprocess.PIPE
                ).stdout
            )
            for form in FORMS
        }
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
