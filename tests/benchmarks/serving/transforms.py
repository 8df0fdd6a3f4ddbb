"""A million random values per transform: reading, scoring and an exported program against each other.

python -m tests.benchmarks.serving.transforms [--rows 1000000]

Prints a table: by feature, the largest difference of a number (relative to the larger of 1 and the number) between reading and
the other two, or the number of table rows that differ. Exits with 1 if a number differs by more than 1e-7, or any row.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.helpers.transforms import FEATURES, allowed, config_of, differences, exported, random_rows, read, scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = config_of(root)
        raw = random_rows(config, options.rows, options.seed)
        expected = read(config, raw, root)
        columns = [differences(other(config, raw, root), expected) for other in (scored, exported)]
    print("| feature | what it does | scoring | program |\n|---|---|---|---|")
    for name in expected:
        what = json.dumps(FEATURES[name]) if name in FEATURES else "the weights of its IDs"
        print(f"| {name} | `{what}` | {' | '.join(f'{found[name]:.1e}' for found in columns)} |")
    sys.exit(any(off > allowed(expected[name]) for found in columns for name, off in found.items()))


if __name__ == "__main__":
    main()
