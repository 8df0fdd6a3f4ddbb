"""docs/scale.md: raymtl on 8, 64 and 512 GPUs and up to ten billion IDs, on paper.

    python -m tests.benchmarks.scale.measure > tests/benchmarks/scale/measured.json  # this machine's part, a minute
    python -m tests.benchmarks.scale.page --plan --write docs/scale.md   # plans anew (four minutes), and the page
    python -m tests.benchmarks.scale.page --write docs/scale.md          # the page from the kept plans, seconds

The page is a function of plans.json, measured.json, ../data/id_maps.json and the code; a test compares them.
"""

import argparse
from pathlib import Path

from tests.benchmarks.scale.around import around
from tests.benchmarks.scale.config import scale_config
from tests.benchmarks.scale.count import count_dense
from tests.benchmarks.scale.limits import answer, ends, method
from tests.benchmarks.scale.plan import BATCH, GPUS, IDS, write_plans
from tests.benchmarks.scale.remedies import remedies
from tests.benchmarks.scale.tables import Cells, cells_table, traffic_table


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
