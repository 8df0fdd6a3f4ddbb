"""Test AUC of `model.refine: dcn_v2` and `senet` in front of a trunk, on synthetic logs; docs/models.md has it.

python -m tests.benchmarks.models.refine [--seeds 3] [--rows-per-day 50000] [--presets mmoe,shared_bottom]

Trains in this process with one thread. Prints a line per run, then each variant's difference from the model without
it of the same seed.
On census: `python -m tests.benchmarks.models.numeric_features --source CENSUS --only "all, [ds][ce]n*"`.
"""

import argparse
import statistics
import tempfile

from raymtl.config.load import config_from_dict
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from tests.benchmarks.models.presets import DAYS, LABELS, synth_config
from tests.benchmarks.training.inprocess import train

VARIANTS = {"none": {"type": "none"}, "dcn_v2": {"type": "dcn_v2"}, "senet": {"type": "senet"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows-per-day", type=int, default=50_000)
    parser.add_argument("--presets", default="mmoe")
    options = parser.parse_args()
    found: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_logs(SynthSpec(days=DAYS, rows_per_day=options.rows_per_day, behaviours=True, engagement=True), folder)
        for preset in options.presets.split(","):
            for seed in range(options.seeds):
                for name, refine in VARIANTS.items():
                    config = synth_config(preset, folder, seed)
                    raw = config.model_dump(mode="json", exclude_unset=True)
                    raw["model"] = {**config.model.model_dump(mode="json"), "refine": refine}
                    run = train(config_from_dict(raw))
                    aucs = {task: run["metrics"]["tasks"][task]["auc"] for task in LABELS}
                    print(preset, seed, name, aucs, f"{run['rows_per_cpu_s']:,.0f} rows/CPU s", flush=True)
                    for task, auc in aucs.items():
                        found.setdefault((preset, name, task), []).append(auc)
    for (preset, name, task), aucs in found.items():
        gains = [auc - plain for auc, plain in zip(aucs, found[preset, "none", task], strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
        print(f"{preset:14}{name:8}{task:8}{statistics.mean(aucs):.4f}  {statistics.mean(gains):+.4f} ± {spread:.4f}")


if __name__ == "__main__":
    main()
