"""docs/scale.md: raymtl on 8, 64 and 512 GPUs and up to ten billion IDs, on paper.

    python tests/benchmarks/scale_measure.py > tests/benchmarks/scale_measured.json   # this machine's part, a minute
    python tests/benchmarks/scale.py --plan --write docs/scale.md  # reruns the planner (four minutes), and writes the page
    python tests/benchmarks/scale.py --write docs/scale.md                            # the page from the kept plans, seconds

The page is a function of scale_plans.json, scale_measured.json, bench_idmap.json and the code; a test compares them.
"""

import argparse
from pathlib import Path

from scale_around import around
from scale_config import scale_config
from scale_count import count_dense
from scale_limits import answer, ends, method
from scale_plan import BATCH, GPUS, IDS, write_plans
from scale_remedies import remedies
from scale_tables import Cells, cells_table, traffic_table


def page() -> str:
    """The whole page."""
    cells = Cells(count_dense(scale_config(IDS[0], GPUS[0], BATCH)))
    parts = [answer(cells), cells_table(cells), traffic_table(cells), remedies(cells), around(cells)]
    return "\n\n".join([*parts, ends(cells), method(cells)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="rerun the planner")
    parser.add_argument("--write", type=Path, help="file to write; without it the page is printed")
    options = parser.parse_args()
    if options.plan:
        write_plans()
    if options.write:
        options.write.write_text(page())
    else:
        print(page())


if __name__ == "__main__":
    main()
