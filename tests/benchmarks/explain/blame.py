"""Which column a fall of the metrics is put down to: faults in one column, wrong labels, and days without a fault.

    python -m tests.benchmarks.explain.blame [--rounds 3] [--rows 60000] [--sample 20000]

Every round trains a version on three days, and then has one day for each kind of fault, each in a random column that matters; one
with wrong labels, and one as usual. A line for each day, and the counts.
"""

import argparse
import datetime as dt
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from raymtl.config.data import DayRange
from raymtl.explaining.fall import Fall, explain_fall
from raymtl.explaining.model import LoadedModel
from raymtl.explaining.sample import Sample, SampleReader, source_columns
from raymtl.serving.version import open_version
from tests.benchmarks.explain.faults import FAULTS, with_fault, with_wrong_labels
from tests.benchmarks.explain.world import START, columns_of_day, train_here, world_config, write_day

TRAINED = 3


class Round:
    """A version, and the day before the fault."""

    def __init__(self, root: Path, seed: int, rows: int, sample: int):
        self.seed, self.rows, self.sample, self.logs = seed, rows, sample, root / "logs"
        for day in range(TRAINED + 1):
            write_day(self.logs, day, columns_of_day(seed, day, rows))
        self.model = LoadedModel(open_version(train_here(world_config(root, TRAINED), root)))
        self.config = self.model.config.model_copy(
            update={"data": self.model.config.data.model_copy(update={"path": str(self.logs)})}
        )
        self.reader = SampleReader(self.config, self.model.maps)
        self.before = self._read(TRAINED)
        self.day = TRAINED

    def _read(self, day: int) -> Sample:
        date = START + dt.timedelta(days=day)
        return self.reader.read(
            self.reader.plan(str(self.logs), DayRange(start=date, end=date)), self.sample, self.seed
        )

    def falls(self, columns: dict) -> list[Fall]:
        """The tasks on a new day with these columns."""
        self.day += 1
        write_day(self.logs, self.day, columns)
        names = list(source_columns(self.config))
        return explain_fall(self.model, self.reader, self.before, self._read(self.day), names, self.seed)

    def usual(self) -> dict:
        """The columns of the next day."""
        return columns_of_day(self.seed, self.day + 1, self.rows)


def told(falls: list[Fall]) -> dict[str, list[str]]:
    """The causes of the tasks that have fallen."""
    return {fall.task: [cause.column for cause in fall.causes] for fall in falls if fall.has_fallen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--sample", type=int, default=20_000)
    options = parser.parse_args()
    right = faults = alone = silent = quiet = 0
    seconds = []
    for seed in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="raymtl-blame-") as folder:
            world = Round(Path(folder), seed, options.rows, options.sample)
            random = np.random.default_rng([seed, 9])
            for fault, (_, possible) in FAULTS.items():
                column = str(random.choice(possible))
                began = time.monotonic()
                found = told(world.falls(with_fault(world.usual(), fault, column, seed)))
                seconds.append(time.monotonic() - began)
                faults += 1
                right += bool(found) and all(causes[:1] == [column] for causes in found.values())
                alone += bool(found) and all(causes == [column] for causes in found.values())
                print(json.dumps({"seed": seed, "fault": fault, "column": column, "told": found}), flush=True)
            for share in (0.1, 0.3, 1.0):
                found = told(world.falls(with_wrong_labels(world.usual(), share, seed)))
                silent += bool(found) and not any(found.values())
                print(json.dumps({"seed": seed, "fault": f"{share:.0%} wrong labels", "told": found}), flush=True)
            for _ in range(3):
                found = told(world.falls(world.usual()))
                quiet += not any(found.values())
                print(json.dumps({"seed": seed, "fault": "none", "told": found}), flush=True)
    counted = 3 * options.rounds
    print(
        f"{right} of {faults} faults: the right column first, in every task that fell; {alone}: and no other\n"
        f"{silent} of {counted} days with wrong labels, {quiet} of {counted} usual ones: no column is named\n"
        f"{np.mean(seconds):.1f} s for a day with a fault"
    )


if __name__ == "__main__":
    main()
