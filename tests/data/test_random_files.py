"""A small slice of the fuzz over files (`tests/benchmarks/data/fuzz_files.py`)."""

import numpy as np
import pytest

from tests.helpers.random_files import try_data_set, write_data_set


@pytest.mark.parametrize("seed", range(20))
def test_random_files_are_read_as_pyarrow_reads_them_or_refused_by_check_and_train_alike(tmp_path, seed):
    made = write_data_set(tmp_path, np.random.default_rng([1, seed]), files=3)
    refused = try_data_set(made)
    assert refused is None or ";" in refused  # what is wrong; what to do
