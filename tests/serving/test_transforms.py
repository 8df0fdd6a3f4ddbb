"""Reading, scoring and exported programs share one definition of each transform."""

from pathlib import Path

import numpy as np

from tests.helpers.transforms import allowed, config_of, differences, exported, random_rows, read, scored


def test_every_transform_is_the_same_in_training_scoring_and_programs(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    raw = random_rows(config, 5003)
    expected = read(config, raw, tmp_path)
    for other in (scored, exported):
        found = differences(other(config, raw, tmp_path), expected)
        assert all(found[name] <= allowed(values) for name, values in expected.items()), found
    for name, values in expected.items():
        assert len(np.unique(values)) > 4, name
