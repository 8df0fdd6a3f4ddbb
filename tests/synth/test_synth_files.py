"""The files of synthetic logs: equal rows however they are cut, bounded memory, a configuration that fits."""

import glob
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import load_config
from raymtl.data.units import plan_input
from raymtl.errors import DataError
from raymtl.storage.folder import Folder
from raymtl.synth import ScenarioSpec, SynthSpec, synth_config, write_logs
from tests.helpers.listed import list_files

SPEC = SynthSpec(days=2, rows_per_day=5_003, users=300, items=200)


def changed(**fields) -> SynthSpec:
    return SynthSpec.model_validate({**SPEC.model_dump(), **fields})


def rows(out) -> pa.Table:
    """All rows in the order of the file names."""
    files = sorted(glob.glob(f"{out}/ds=*/**/*.parquet", recursive=True))
    return pa.concat_tables(pq.read_table(f, partitioning=None) for f in files)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    out = tmp_path_factory.mktemp("logs")
    summary = write_logs(SPEC, str(out))
    return out, summary


def test_the_same_spec_gives_the_same_rows_however_files_are_cut(logs, tmp_path):
    want = rows(logs[0])
    write_logs(changed(rows_per_file=1000, row_group_rows=300), str(tmp_path))
    assert rows(tmp_path).equals(want)
    files = sorted(glob.glob(f"{tmp_path}/ds=2026-01-01/*.parquet"))
    assert [pq.read_metadata(f).num_rows for f in files] == [1000] * 5 + [3]
    groups = pq.read_metadata(files[0])
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [300, 300, 300, 100]


def test_nested_files_hold_the_same_rows(logs, tmp_path):
    spec = changed(
        layout="nested", rows_per_file=1003, row_group_rows=302, hours=True, behaviours=True, engagement=True
    )
    summary = write_logs(spec, str(tmp_path / "nested"))
    flat_spec = changed(behaviours=True, engagement=True)
    flat_summary = write_logs(flat_spec, str(tmp_path / "flat"))
    assert (summary.rows, summary.label_means, summary.label_nulls) == (
        flat_summary.rows,
        flat_summary.label_means,
        flat_summary.label_nulls,
    )
    files = sorted(glob.glob(f"{tmp_path}/nested/ds=2026-01-02/hour=*/*.parquet"))
    assert max(pq.read_metadata(f).row_group(0).num_rows for f in files) == 30
    requests, want = rows(tmp_path / "nested"), rows(tmp_path / "flat")
    lengths = pc.list_value_length(requests["impressions"]).to_numpy()
    assert set(lengths) == {10, 3}
    found = requests.drop_columns("impressions").take(pa.array(np.repeat(np.arange(len(requests)), lengths)))
    inner = pa.Table.from_struct_array(pc.list_flatten(requests["impressions"]))
    for name in want.column_names:
        column = found[name] if name in found.column_names else inner[name]
        assert column.combine_chunks().equals(want[name].combine_chunks()), name
    assert {"user_id", "weight", "hist_gaps", "hist_buys", "age"} < set(requests.column_names)
    assert {"item_id", "position", "click", "buy_mature", "p_click", "like"} < set(inner.column_names)
    config = load_config(summary.config)
    assert config.data.impressions == "impressions"
    assert plan_input(config, "eval").rows == 5_003


def test_another_seed_is_another_world(logs, tmp_path):
    write_logs(changed(seed=1), str(tmp_path))
    other, first = rows(tmp_path), rows(logs[0])
    assert other.num_rows == first.num_rows
    assert not other["item_id"].equals(first["item_id"])


def test_more_processes_write_the_same_files(tmp_path):
    spec = changed(shards=3)
    for processes in (1, 2):
        seen = []
        write_logs(spec, f"{tmp_path}/{processes}", processes, lambda done, total, s=seen: s.append((done, total)))
        assert seen[-1][1] == 10_006
        assert seen[-1][0] == 10_006 or processes == 2  # the last steps of a process may go unreported
        assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    names = [sorted(os.path.relpath(f, f"{tmp_path}/{n}") for f in glob.glob(f"{tmp_path}/{n}/ds=*/*")) for n in (1, 2)]
    assert names[0] == names[1]
    assert len(names[0]) == 6
    assert rows(f"{tmp_path}/1").equals(rows(f"{tmp_path}/2"))


def test_the_summary_tells_what_was_written(logs):
    out, summary = logs
    table = rows(out)
    files = glob.glob(f"{out}/ds=*/*.parquet")
    assert (summary.rows, summary.files) == (table.num_rows, len(files)) == (10_006, 2)
    assert summary.bytes == sum(map(os.path.getsize, files))
    for name, mean in summary.label_means.items():
        assert mean == pytest.approx(pc.mean(table[name]).as_py())
        assert summary.label_nulls[name] == pytest.approx(table[name].null_count / table.num_rows)


def test_hours_are_partitions_below_the_day(logs, tmp_path):
    write_logs(changed(hours=True, last_day_rows=2000), str(tmp_path))
    hours = sorted(glob.glob(f"{tmp_path}/ds=2026-01-01/*"))
    assert [os.path.basename(h) for h in hours] == [f"hour={n:02d}" for n in range(24)]
    for n, hour in enumerate(hours):
        assert set(pq.read_table(hour, partitioning=None)["hour_of_day"].to_pylist()) == {n}
    assert len(list_files(Folder.open(str(tmp_path)), None)) == 48
    assert rows(tmp_path).slice(0, 5003).equals(rows(logs[0]).slice(0, 5003))
    assert rows(tmp_path).num_rows == 5003 + 2000


def test_the_configuration_fits_the_logs(logs):
    out, summary = logs
    config = load_config(summary.config)
    for part, count in (("train", 5_003), ("eval", 5_003)):
        plan = plan_input(config, part)  # checks every column and type that the configuration names
        assert plan.rows == count
    table = rows(out)
    for name, feature in config.features.items():
        if feature.kind != "dense" and config.tables[config.table_of(name)].id_space == "direct":
            values = table[name].combine_chunks()
            values = values.flatten() if feature.kind != "id" else values
            assert 0 <= pc.min(values).as_py() <= pc.max(values).as_py() < config.tables[config.table_of(name)].rows
    assert set(config.tasks) == {"click", "cart", "buy", "page_views", "watch_time"}
    assert all(task.truth in table.column_names for task in config.tasks.values())
    for name in ("user_id", "item_id"):
        assert config.tables[name].rows >= 2 * pc.count_distinct(table[name]).as_py()


def test_dense_columns_are_near_mean_0_and_deviation_1_in_the_configuration(tmp_path):
    spec = SynthSpec(days=1, rows_per_day=30_000)
    write_logs(spec, str(tmp_path))
    table = rows(tmp_path)
    for name, feature in synth_config(spec, str(tmp_path))["features"].items():
        if feature["kind"] == "dense":
            values = table[name].drop_null().to_numpy()
            values = np.log1p(values) if feature["transform"] == "log1p" else values
            scaled = (values - feature["mean"]) / feature["std"]
            assert abs(scaled.mean()) < 0.5, name
            assert 0.6 < scaled.std() < 1.5, name


@pytest.mark.parametrize(
    "fields",
    [
        {"history": 0},
        {"request_rows": 1},
        {"users": 1, "items": 1},
        {"rows_per_day": 1},
        {"new_users": 1.0, "new_items": 1.0},
        {"new_users": 0.0, "new_items": 0.0},
        {"buy_window_hours": 0.0, "old_app": 0.0, "cart_not_logged": ()},
        {"segments": 1, "categories": 1, "brands": 1, "tag_values": 1, "cities": 1},
        {"brands": 3, "categories": 30},
        {"scenarios": (ScenarioSpec(name="feed", share=2, click_rate=0.3),), "cart_not_logged": ()},
        {"days": 1},
        {"rows_per_day": 2_000, "refreshes_per_day": 1_000_000},
        {"seed": 2**62},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_extreme_specs_give_logs_that_fit_their_configuration(tmp_path, fields):
    spec = changed(**fields)
    summary = write_logs(spec, str(tmp_path))
    table = rows(tmp_path)
    assert table.num_rows == summary.rows == spec.rows_per_day * spec.days
    plan_input(load_config(summary.config), "train")
    assert pc.list_value_length(table["hist_items"]).to_numpy().max() <= spec.history
    if spec.buy_window_hours == 0:
        assert table["buy"].null_count == table["cart"].null_count == 0


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not empty.*notes\.txt.*choose a new folder"):
        write_logs(SPEC, str(tmp_path))
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_logs_of_another_spec_are_not_mixed_in(logs):
    with pytest.raises(DataError, match=r"other settings.*users 300 instead of 301"):
        write_logs(changed(users=301), str(logs[0]))


def test_a_run_that_was_cut_off_starts_again_over_its_leavings(logs, tmp_path):
    want = rows(logs[0])
    write_logs(SPEC, str(tmp_path))
    last = f"{tmp_path}/ds=2026-01-02/part-000-00000.parquet"
    os.rename(last, f"{tmp_path}/ds=2026-01-02/_part-000-00000.parquet")  # as if killed before the last move
    os.remove(f"{tmp_path}/config.yaml")
    write_logs(SPEC, str(tmp_path))
    assert rows(tmp_path).equals(want)
    assert sorted(os.listdir(tmp_path)) == ["_synth.json", "config.yaml", "ds=2026-01-01", "ds=2026-01-02"]
    assert os.listdir(os.path.dirname(last)) == ["part-000-00000.parquet"]


def test_a_url_of_fsspec_will_do(logs):
    url = "memory://synth-test"
    summary = write_logs(SPEC, url)
    assert summary.path == url
    assert plan_input(load_config(summary.config), "train").rows == 5_003


def test_memory_does_not_grow_with_the_rows():
    """Peak memory of a process that writes 1 and 5 days of 150,000 rows."""
    code = (
        "import resource, sys, tempfile\n"
        "from raymtl.synth import SynthSpec, write_logs\n"
        "with tempfile.TemporaryDirectory() as out:\n"
        "    write_logs(SynthSpec(days=int(sys.argv[1]), rows_per_day=150_000, refreshes_per_day=10), out)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    peak_mib = [
        int(subprocess.run([sys.executable, "-c", code, days], check=True, capture_output=True, text=True).stdout)
        for days in ("1", "5")
    ]
    assert peak_mib[1] - peak_mib[0] < 60, peak_mib  # 4 more days in memory would be 200 MiB and more
