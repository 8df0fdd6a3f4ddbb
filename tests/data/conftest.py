"""Fixtures of the data tests."""

import pytest

from tests.helpers.in_process_scan import scan_in_process
from tests.helpers.small_data import write_file
from tests.helpers.validation_logs import DAYS, good_rows, table


@pytest.fixture
def in_process(monkeypatch):
    """The tasks of a check run one after another in this process, without Ray."""

    from raymtl.data.validation import run as validation_run

    monkeypatch.setattr(validation_run, "scan", scan_in_process)


@pytest.fixture
def clean(tmp_path):
    """Three days of two clean files each."""
    for n, day in enumerate(DAYS):
        for part in range(2):
            write_file(tmp_path, table(good_rows(seed=2 * n + part, day=day)), day, f"part-{part}.parquet", 150)
    return tmp_path
