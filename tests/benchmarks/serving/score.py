"""What the two parts of a served model save, and what batch scoring costs beside the model's own work.

python -m tests.benchmarks.serving.score [--rows 150000]

Parts: CPU time of one user with 1000 candidates, whole against split, for models of `jobs/conf`, in one process with one thread.
Scoring: a day of synthetic logs through `raymtl score` with one scorer of one thread, and the same rows through the same model
with the batches ready in memory; rows per second of wall time and of CPU time. Weights are random: speed does not ask for them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.embeddings.spec import input_spec
from raymtl.model_store.store import publish
from raymtl.model_store.writer import Draft, write_version
from raymtl.models.ranker import build_ranker
from raymtl.serving.export import _example
from raymtl.serving.model import SCENARIO, Raw, ServedModel, load_ranker, served_tables
from raymtl.serving.plan import plan_scoring
from raymtl.serving.rows import Rows
from raymtl.serving.score import BATCH_ROWS, Pool, score
from raymtl.serving.scorer import Predictor, UnitReader
from raymtl.serving.tables import FloatTable
from raymtl.serving.version import open_version, read_dense, read_table
from raymtl.storage.object_store import Store
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training.build import build

CONF = Path(__file__).parents[3] / "jobs" / "conf"
CANDIDATES = 1000
REPEATS = 9


def inputs(config: Config, names: list[str], rows: int) -> Raw:
    """Random inputs; every list is as long as it may be."""
    made = _example(config, names, rows)
    for name in list(made):
        feature = config.features[name.partition(".")[0]]
        if name.endswith(".present"):
            del made[name]
        elif name.endswith(".lengths"):
            length = getattr(feature, "max_length", None) or 3
            made[name] = torch.full((rows,), length)
            made[name.removesuffix(".lengths")] = _ids(config, name.removesuffix(".lengths"), rows * length)
        elif feature.kind == "id":
            made[name] = _ids(config, name, rows)
    return made


def _ids(config: Config, name: str, count: int) -> torch.Tensor:
    return torch.randint(0, config.tables[config.table_of(name)].rows, (count,))


def cpu_ms(work: Callable[[], object]) -> float:
    """Median CPU time of a call, in milliseconds."""
    work()
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1000 * statistics.median(times)


def parts(name: str) -> None:
    """One line of the table of models."""
    config = load_config(str(CONF / f"{name}.yaml"))
    torch.manual_seed(0)
    ranker = build_ranker(config.model, config.active_tasks(), input_spec(config), {})
    tables = {n: FloatTable(torch.randn(config.tables[n].rows, config.tables[n].dim)) for n in served_tables(config)}
    model = ServedModel(config, ranker, tables)
    user = inputs(config, model.sides["user"], 1)
    item = inputs(config, model.sides["item"], CANDIDATES)
    user |= {SCENARIO: torch.zeros(1, dtype=torch.int64)} if config.data.scenario else {}
    both = {name: value.repeat(CANDIDATES) for name, value in user.items()} | item
    index = torch.zeros(CANDIDATES, dtype=torch.int64)
    with torch.inference_mode():
        whole = cpu_ms(lambda: model.predict(both))
        split = cpu_ms(lambda: model.item(model.user(user), index, item))
    sides = f"{len(model.sides['user'])} / {len(model.sides['item'])}"
    print(f"{name:14} {sides:>9} {whole:9.1f} {split:9.1f} {split / whole:7.2f}", flush=True)


def scoring(rows: int) -> None:
    """Batch scoring against the model alone."""
    with tempfile.TemporaryDirectory(prefix="raymtl-bench-") as folder:
        logs = f"{folder}/logs"
        write_logs(SynthSpec(days=1, rows_per_day=rows, behaviours=True), logs)
        config = load_config(str(CONF / "dupn.yaml"), [f"data.path={logs}", "data.eval=null"])
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        built = build(config, {}, 1, torch.device("cpu"), dist.group.WORLD)
        store = Store.open(f"{folder}/store")
        write_version(built, store, Draft("v", config, {"train": ["2026-01-01"] * 2}), dist.group.WORLD)
        publish(store, "v")
        dist.destroy_process_group()

        version = open_version(f"{folder}/store")
        plan = plan_scoring(config, logs, None, ["user_id", "item_id"])
        held: list[Rows] = [part for o in plan.outputs for part in UnitReader(config, plan, {}).read(o)]
        users = sum(int(part.index[-1]) + 1 for part in held)
        for name, split in (("split", True), ("whole", False)):
            tables = {n: FloatTable(torch.from_numpy(read_table(version, n))) for n in served_tables(config)}
            model = ServedModel(config, load_ranker(config, read_dense(version), "v"), tables)
            model.split = model.split if split else None
            predictor = Predictor(config, model, BATCH_ROWS, torch.device("cpu"))
            predictor.predict(held[0])
            wall, cpu = time.monotonic(), time.process_time()
            for part in held:
                predictor.predict(part)
            wall, cpu = time.monotonic() - wall, time.process_time() - cpu
            print(f"model alone, {name}: {rows / wall:10,.0f} rows/s {rows / cpu:10,.0f} rows/CPU-s", flush=True)
            if split:
                alone = wall, cpu
        began = time.monotonic()
        facts = score(f"{folder}/store", logs, f"{folder}/out", keys=["user_id", "item_id"], pool=Pool(workers=1))
        whole = time.monotonic() - began
        busy = facts["scorer_seconds"]
        print(f"raymtl score:       {rows / busy:10,.0f} rows/s {rows / facts['cpu_seconds']:10,.0f} rows/CPU-s")
        print(
            f"{rows:,} rows, {users:,} users; of the model alone: {alone[0] / busy:.2f} by wall time of the scorer, "
            f"{alone[1] / facts['cpu_seconds']:.2f} by CPU time; start of Ray, tables and scorer: {whole - busy:.0f} s"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--only", choices=["parts", "scoring"])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.only != "scoring":
        print(f"{'model':14} {'user/item':>9} {'whole ms':>9} {'split ms':>9} {'ratio':>7}")
        for model in ("dupn", "m2m", "dtrn", "mmoe", "ple", "aitm", "esmm", "shared_bottom", "nfwfm"):
            parts(model)
    if chosen.only != "parts":
        scoring(chosen.rows)
