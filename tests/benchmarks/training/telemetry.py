"""What metrics and the sampled step cost: python -m tests.benchmarks.training.telemetry

Prints, with two workers on this machine: a step as it is, a step under the profiler of `CollectiveSampler`, and the time to set
all metrics of a log line in a process of Ray.
"""

import logging
import statistics
import tempfile
import time
from pathlib import Path

import ray
import torch

from raymtl.telemetry.collectives import CollectiveSampler
from raymtl.telemetry.metrics import METRICS, Gauges
from tests.helpers.mixed_models import make
from tests.helpers.worker_processes import mixed_config, several, share

STEPS, EVERY = 400, 2


def steps(rank: int, workers: int) -> tuple[list[float], list[float], dict[str, float]]:
    """Seconds of plain and of sampled steps, and what the last sample found."""
    config = mixed_config(["row_wise", "table_wise"], rows=4096)
    built = make(config)
    batches = [share(config, rank, workers, seed) for seed in range(4)]
    sampler = CollectiveSampler(torch.device("cpu"), workers, EVERY)
    plain, sampled = [], []
    for n in range(STEPS):
        started, before = time.perf_counter(), sampler.seconds
        with sampler.step(n):
            built.optimizers.zero_grad()
            loss, _ = built.model(batches[n % len(batches)])
            loss.backward()
            built.optimizers.step()
        (plain if sampler.seconds is before else sampled).append(time.perf_counter() - started)
    return plain[10:], sampled[1:], sampler.seconds


@ray.remote(num_cpus=0)
def a_log_line() -> float:
    """Seconds to set every metric once."""
    gauges, tries = Gauges("bench", 0), []
    for _ in range(200):
        started = time.perf_counter()
        for metric in METRICS:
            gauges.set(metric.name, 0.5, **dict.fromkeys(metric.tags, "click"))
        tries.append(time.perf_counter() - started)
    return statistics.median(tries)


def main() -> None:
    plain, sampled, found = several(2, Path(tempfile.mkdtemp()) / "workers", steps)[0]
    usual, watched = statistics.median(plain), statistics.median(sampled)
    print(
        f"step {usual * 1e3:.2f} ms, sampled step {watched * 1e3:.2f} ms (medians of {len(plain)} and {len(sampled)})"
    )
    print(f"one sampled step in 500 adds {(watched - usual) / (500 * usual):.3%}")
    print("last sample: " + ", ".join(f"{kind} {seconds * 1e3:.2f} ms" for kind, seconds in found.items()))
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    print(f"all {len(METRICS)} metrics of a log line: {ray.get(a_log_line.remote()) * 1e6:.0f} us")


if __name__ == "__main__":
    main()
