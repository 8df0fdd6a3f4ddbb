"""Speed on the census data: 32 categorical and 7 dense inputs, embeddings of 16, batch 2048, one worker (docs/performance.md).

    python -m tests.benchmarks.training.census --source DIR_WITH_THE_CENSUS_FILES [--model mmoe|aitm] [--threads 2]

Prints one JSON object: each stage's rows/s and CPU seconds per million rows, and ratios within this run.
"""

import argparse
import json
import tempfile

import ray

from raymtl.config.load import load_config
from raymtl.data.convert.registry import convert
from raymtl.training.cluster import connect
from tests.benchmarks.training import stages

MODELS = {
    "mmoe": ["model={preset: mmoe, trunk: {experts: 4, hidden: [128, 64]}, towers: {hidden: [32]}}"],
    # census has no funnel; an edge between its tasks lets AITM's transfer and calibrator do their work
    "aitm": [
        "model={preset: aitm, towers: {hidden: [128, 64]}, coupler: {type: ait, width: 64}}",
        "tasks={never_married: {}, income: {parent: never_married}}",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder with the census files")
    parser.add_argument("--model", choices=MODELS, default="mmoe")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = convert("census", options.source, folder)
        config = load_config(
            path,
            [
                *MODELS[options.model],
                "data.eval=null",
                "train.sparse_optimizer={type: rowwise_adagrad, lr: 0.02}",
                f"train.threads_per_worker={options.threads}",
                "train.batch_size=2048",
                f"train.epochs={options.epochs}",
                "train.checkpoint.every_units=1000000",
                "train.log_every_steps=25",
                *options.set,
            ],
        )
        answer = {"model": options.model, "threads": options.threads, **stages.machine()}
        answer["a_scan"] = stages.scan(config)
        connect(config, "local")
        answer["b_reading"] = stages.reading(config, skip_rows=200_000)
        batches = stages.some_batches(config, 16)
        answer["plain_pytorch"] = stages.plain_step(config, batches, options.threads, 60)
        answer["c_step"] = stages.step(config, batches, options.threads, 100)
        answer["d_end_to_end"] = stages.end_to_end(config, skip_rows=250_000)
        answer["plain_pytorch_again"] = stages.plain_step(config, batches, options.threads, 60)
        b, c, d = (answer[k]["rows_per_s"] for k in ("b_reading", "c_step", "d_end_to_end"))
        plain = max(answer[k]["rows_per_s"] for k in ("plain_pytorch", "plain_pytorch_again"))
        answer["end_to_end_of_serial"] = round(d / (1 / (1 / b + 1 / c)), 3)
        answer["end_to_end_of_plain_step"] = round(d / plain, 3)
        answer["step_of_plain_step"] = round(c / plain, 3)
        ray.shutdown()
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
