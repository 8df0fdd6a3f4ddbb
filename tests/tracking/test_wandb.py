"""Runs in Weights & Biases without a network: what its own reader finds in the files that `wandb sync` would send."""

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from raymtl.config.track import Wandb
from raymtl.tracking import run_tracking
from raymtl.tracking.run_tracking import RunTracking, TrackedRun, read_ids
from raymtl.tracking.wandb_run import WandbRun
from raymtl.training.rundir import RunFolder
from tests.helpers.tracked import eval_record, train_record

wandb = pytest.importorskip("wandb")
BLOCK, FULL, LAST = 2**15, 1, 4
RUN = TrackedRun("ctr", {"train": {"epochs": 2}, "tasks": ["click", "buy"]}, {"days.train": "2026-01-01"})


def track(folder: Path, said: list[str], steps: range) -> str:
    run_dir = RunFolder.open(str(folder))
    tracking = RunTracking({"wandb": WandbRun(Wandb(project="ctr"), str(folder))}, RUN, run_dir, said.append)
    listen = tracking.listener(lambda event: None)
    for step in steps:
        listen(train_record(step))
    listen(eval_record(steps.stop - 1))
    tracking.add_facts({"version": "v1"})
    tracking.add_file("report.html", "<p>AUC</p>")
    tracking.close("finished")
    return read_ids(run_dir).get("wandb", "")


def records(folder: Path) -> list[Any]:
    """What an offline run wrote: after seven bytes, the log format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, found = next(folder.glob("*.wandb")).read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:  # a header is never split
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def test_an_offline_run_and_its_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    said: list[str] = []
    first = track(tmp_path, said, range(1, 8))
    time.sleep(1)  # wandb names the folder by the second
    second = track(tmp_path, said, range(8, 11))
    assert said == []
    assert first == second != ""
    assert capfd.readouterr() == ("", "")
    runs = sorted((tmp_path / "wandb").glob(f"offline-run-*-{first}"))
    assert len(runs) == 2
    rows, config, files = [], {}, set()
    for record in records(runs[0]):
        rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
        for source in (record.config, record.run.config):
            config |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in source.update}
        files |= {file.path for file in record.files.files}
        assert not record.run.run_id or (record.run.project, record.run.display_name) == ("ctr", "ctr")
    rows = [row for row in rows if row]
    assert [row["step"] for row in rows] == [*range(1, 8), 7]
    assert rows[2]["train/loss/click"] == pytest.approx(0.53)
    assert rows[-1]["eval/click/auc"] == 0.7
    assert config["train"] == {"epochs": 2}
    assert config["raymtl"] == {"days.train": "2026-01-01", "version": "v1"}
    assert "report.html" in files
    assert (runs[0] / "files" / "report.html").read_text() == "<p>AUC</p>"


def test_without_a_key_it_is_one_sentence_and_no_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("_EVERY_S", "_SOON_S", "_RETRY_S"):
        monkeypatch.setattr(run_tracking, name, 0.01)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert track(tmp_path, said := [], range(1, 3)) == ""
    assert len(said) == 1
    assert said[0].startswith(
        "Weights & Biases (http://127.0.0.1:9) does not take this run (there is no API key: run `wandb login`, or set "
        "WANDB_API_KEY or WANDB_MODE=offline); "
    )
    assert capfd.readouterr() == ("", "")
