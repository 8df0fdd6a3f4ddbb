"""What is sent to a cluster in place of a command line."""

import datetime as dt
import re
from pathlib import Path

import pytest
import typer

from raymtl.cli.main import app, run_command
from raymtl.config.load import config_hash, load_config
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.submission.request import PLACES, UPLOADED, Request, read_request

ROOT = typer.main.get_command(app)
EXAMPLE = str(Path(__file__).parents[2] / "jobs" / "conf" / "example.yaml")
OTHER = {"A..B", "COLUMN", "KEY=VALUE", "YYYY-MM-DD", "ADDR", "SECONDS", "VERSION", "ID", "NAME", "K"}


def read(*words: str, job_id: str | None = None) -> Request:
    return read_request(ROOT, words, job_id)


def uploaded(request: Request, tmp_path: Path) -> Config:
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "uploaded.yaml"
    path.write_text(request.config or "")
    return load_config(str(path))


def test_the_configuration_is_replaced_by_a_copy_that_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ["data.path=logs", "output=~/runs", "train.dense_optimizer.lr=0.5"]
    options = [word for one in sets for word in ("--set", one)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    request = read("train", "-c", EXAMPLE, *options, "--name", "my.run", "--workers", "2", "--gpu", "--json")
    assert request.words == ("train", "--config", UPLOADED, "--name", "my.run", "--workers", "2", "--gpu", "--json")
    here = load_config(EXAMPLE, [*sets, "name=my.run", "train.workers=2", "train.use_gpu=true"])
    monkeypatch.chdir("/")  # the job runs in a folder of its own
    monkeypatch.setenv("HOME", "/home/ray")
    there = uploaded(request, tmp_path)
    assert there == here
    assert config_hash(there) == config_hash(here)
    assert (there.data.path, there.output) == (f"{tmp_path}/logs", "/home/me/runs")
    assert request.id == "raymtl-train-my.run"


def test_a_base_is_sent_within_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(f"extends: {EXAMPLE}\nname: own\n")
    request = read("train", "-c", "own.yaml")
    assert "extends" not in (request.config or "")
    assert uploaded(request, tmp_path / "elsewhere") == load_config(EXAMPLE, ["name=own"])


def test_stores_do_not_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    daily = ["--set", "daily.store=model", "--set", "data.group=user_id"]
    there = uploaded(read("daily", "-c", EXAMPLE, *daily), tmp_path)
    assert there.daily.store == f"{tmp_path}/model"
    tune = ["--set", "tune={space: {}, presets: [loss_weights], start: {store: model}}"]
    there = uploaded(read("tune", "-c", EXAMPLE, *tune), tmp_path)
    assert there.tune.start.store == f"{tmp_path}/model"


def test_a_url_goes_as_it_is() -> None:
    request = read("train", "--config", "s3://bucket/conf/big.yaml", "--set", "train.workers=4")
    assert request.words == ("train", "--config", "s3://bucket/conf/big.yaml", "--set", "train.workers=4")
    assert request.config is None
    assert request.id == "raymtl-train-big"
    for kept in ("output=s3://bucket/runs", "output=/mnt/runs"):
        assert read("train", "-c", "s3://b/c.yaml", "--set", kept).words[-1] == kept


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("output=runs", "output=runs"),
        ("output=~/runs", "output=~/runs"),
        ("data.path=logs", "data.path=logs"),
        ("data.eval_path=logs", "data.eval_path=logs"),
        ("daily.store=model", "daily.store=model"),
        ("tune.start.store=model", "tune.start.store=model"),
        ("tune={start: {store: model}}", "tune.start.store=model"),
    ],
)
@pytest.mark.parametrize("command", [("train", "-c", "s3://b/c.yaml"), ("evaluate", "s3://b/runs/a")])
def test_a_relative_path_that_would_be_taken_from_the_folder_of_the_job(
    command: tuple[str, ...], given: str, named: str
) -> None:
    with pytest.raises(ConfigError, match=rf"--set {re.escape(named)} is a relative path"):
        read(*command, "--set", given)
    key = named.partition("=")[0]
    for kept in ("/mnt/here", "s3://bucket/here", *([""] if key == "data.eval_path" else [])):
        assert f"{key}={kept}" in read(*command, "--set", f"{key}={kept}").words


def test_places_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = read("evaluate", "runs/first", "--checkpoint", "runs/first/checkpoint_1", "--set", "train.workers=1")
    assert request.words == (
        *("evaluate", "--set", "train.workers=1", "--checkpoint", f"{tmp_path}/runs/first/checkpoint_1"),
        f"{tmp_path}/runs/first",
    )
    assert read("evaluate", "s3://bucket/runs/first").words[-1] == "s3://bucket/runs/first"
    nested = ("convert", "--nest", f"{tmp_path}/logs", "s3://bucket/nested", "--request", "request_id")
    assert read("convert", "--nest", "logs", "s3://bucket/nested", "--request", "request_id").words == nested


def test_every_argument_that_may_be_a_path_is_known_as_one_or_not() -> None:
    able = {name: one for name, one in ROOT.commands.items() if any("--address" in p.opts for p in one.params)}
    assert set(able) >= {"train", "tune", "daily", "evaluate", "check"}
    unknown = [
        f"{name} {parameter.opts[0]} {parameter.metavar}"
        for name, command in able.items()
        if name != "submit"
        for parameter in command.params
        if parameter.metavar is not None and parameter.metavar not in (*PLACES, *OTHER)
    ]
    assert not unknown, "add the metavar to request.PLACES if it is a path, or to OTHER here"


def test_a_daily_job_keeps_its_day() -> None:
    conf = ["-c", EXAMPLE, "--set", "name=ctr", "--set", "daily.store=/mnt/model", "--set", "data.group=user_id"]
    yesterday = (dt.datetime.now(dt.UTC) - dt.timedelta(days=1)).date()
    request = read("daily", *conf)
    assert request.words[-2:] == ("--date", str(yesterday))
    assert request.id == f"raymtl-daily-ctr-{yesterday}"
    assert read("daily", *conf, "--date", "2026-01-31").id == "raymtl-daily-ctr-2026-01-31"
    several = read("daily", *conf, "--from", "2026-01-29", "--to", "2026-01-31", "--wait", "300")
    assert several.id == "raymtl-daily-ctr-2026-01-29-2026-01-31"
    assert "--date" not in several.words
    assert "--date" not in read("daily", *conf, "--follow").words  # it would be refused beside it


def test_ids_of_resumable_work_are_stable_and_of_other_work_are_new() -> None:
    assert read("tune", "-c", EXAMPLE, "--name", "a", "--set", "tune.presets=[alpha]").id == "raymtl-tune-a"
    ids = [read("evaluate", "/runs/a").id for _ in range(2)]
    assert ids[0] != ids[1]
    assert re.fullmatch(r"raymtl-evaluate-\d{8}-\d{6}-[0-9a-f]{4}", ids[0])
    assert read("train", "-c", EXAMPLE, job_id="mine").id == "mine"


def test_the_same_work_is_the_same_request() -> None:
    first = read("train", "-c", EXAMPLE)
    assert first == read("train", "--config", EXAMPLE)
    assert first != read("train", "-c", EXAMPLE, "--set", "train.workers=2")
    assert first != read("train", "-c", EXAMPLE, "--dry-run")


def test_the_id_of_a_scoring_is_that_of_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    work = ("score", "--version", "s3://bucket/model", "--data", "s3://bucket/logs", "--out")
    first = read(*work, "s3://bucket/scores/31 Jan")
    assert re.fullmatch(r"raymtl-score-31-Jan-[0-9a-f]{8}", first.id)
    assert (
        read(*work, "s3://bucket/scores/31 Jan/").id
        == read(*work[:5], "--out=s3://bucket/scores/31 Jan").id
        == first.id
    )
    assert read(*work, "s3://other/scores/31 Jan").id != first.id
    assert read(*work, "scores").id == read(*work, f"{tmp_path}/scores").id


def test_a_doctor_goes_with_its_configuration_or_without() -> None:
    request = read("doctor", "--config", EXAMPLE)
    assert request.words == ("doctor", "--config", UPLOADED)
    assert request.config is not None
    assert request.id.startswith("raymtl-doctor-")
    assert read("doctor").words == ("doctor",)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "-c", EXAMPLE, "--set", "model.prest=mmoe"], 64, "did you mean `preset`"),
        (["train", "-c", "nowhere.yaml"], 64, "`nowhere.yaml` does not exist"),
        (["train", "-c", EXAMPLE, "--worker", "2"], 2, "No such option: --worker"),
        (["train"], 2, "Missing option '--config'"),
        (["evaluate", "a", "b"], 2, "unexpected extra argument"),
        (["tune", "status", "runs/a"], 64, "run `raymtl tune status` here"),
        (["synth", "out"], 64, "does not run on a cluster; use one of these: check, convert, daily"),
        (["submit", "train"], 64, "does not run on a cluster"),
        ([""], 64, "no command is given; add one of: check, convert, daily"),
        (["train", "-c", EXAMPLE, "--env", "NOT_SET_HERE"], 64, "this machine has no such variable"),
        (["train", "-c", EXAMPLE, "--env", "=hunter2"], 64, "--env number 1 is not NAME or NAME=VALUE"),
        (["train", "-c", EXAMPLE, "--id", "../a"], 64, "use only letters"),
        (["train", "-c", EXAMPLE, "--working-dir", "nowhere"], 64, "not a folder on this machine"),
        (["train", "-c", EXAMPLE, "--pip", "nowhere"], 64, "not a file on this machine"),
        (["train", "-c", EXAMPLE, "--entrypoint-resources", "[1]"], 64, "must be a JSON object"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(
    words: list[str], code: int, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymtl.submission.client.connect", lambda address: pytest.fail("connected"))
    assert run_command(["submit", "--address", "http://head:8265", *words]) == code
    error = capfd.readouterr().err
    assert said in error
    assert "hunter2" not in error
