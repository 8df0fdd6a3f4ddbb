"""Fixtures of the data tests."""

import pytest
from check_logs import DAYS, good_rows, table
from small_data import write_file


@pytest.fixture
def in_process(monkeypatch):
    """The tasks of a check run one after another in this process, without Ray."""

    def scan(source, tasks, read_tasks, labels, *, in_order):
        for task in source.get_read_tasks(tasks):
            yield from task()

    from raymtl.data import check

    monkeypatch.setattr(check, "scan", scan)


@pytest.fixture
def clean(tmp_path):
    """Three days of two clean files each."""
    for n, day in enumerate(DAYS):
        for part in range(2):
            write_file(tmp_path, table(good_rows(seed=2 * n + part, day=day)), day, f"part-{part}.parquet", 150)
    return tmp_path
