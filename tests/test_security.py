"""What a configuration, a command line or a file on the storage must not be able to do: run code, or leave its folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymtl.cli.main import run_command
from raymtl.config.load import load_config
from raymtl.errors import ConfigError

ROOT = Path(__file__).parents[1]
EXAMPLE = str(ROOT / "jobs" / "conf" / "example.yaml")
RUNS_CODE = {
    *("eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"),
    *(
        "marshal.loads",
        "joblib.load",
        "dill.loads",
        "cloudpickle.loads",
        "numpy.load",
        "np.load",
        "os.system",
        "os.popen",
    ),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "importlib.import_module", "pandas.read_pickle"),
}
ALLOWED = {
    ("raymtl/data/validation/run.py", "pickle.loads"): "what a reading task of the same run has counted",
    ("raymtl/init/profile.py", "pickle.loads"): "what a reading task of the same command has counted",
    ("raymtl/training/checkpoint_reader.py", "torch.load"): "weights_only=True",
    ("raymtl/training/row_tracker.py", "np.load"): "allow_pickle=False",
    ("raymtl/serving/mapped_tables.py", "np.load"): "allow_pickle=False",
    ("raymtl/config/yamltext.py", "yaml.load"): "a subclass of the safe loader",
    ("raymtl/models/registry.py", "importlib.import_module"): "`type: custom`, which names code on purpose",
    ("raymtl/models/ranker.py", "importlib.import_module"): "the package's own modules",
    ("raymtl/objectives/balance/balancer.py", "importlib.import_module"): "the package's own modules",
    ("raymtl/objectives/terms/base.py", "importlib.import_module"): "the package's own modules",
    ("raymtl/dependencies.py", "importlib.import_module"): "one fixed name",
}


def _calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in RUNS_CODE:
                yield name
            if any(keyword.arg == "shell" for keyword in node.keywords):
                yield f"{name}(shell=…)"


def test_nothing_that_is_read_is_run() -> None:
    files = [*(ROOT / "raymtl").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]
    found = {(str(path.relative_to(ROOT)), name) for path in files for name in _calls(path)}
    assert found - set(ALLOWED) == set()
    assert ("raymtl/config/yamltext.py", "yaml.load") in found  # the search finds what is there
    training = ROOT / "raymtl" / "training"
    assert "allow_pickle=False" in (training / "row_tracker.py").read_text()
    assert "allow_pickle=False" in (ROOT / "raymtl" / "serving" / "mapped_tables.py").read_text()
    assert "torch.load(value, weights_only=True)" in (training / "checkpoint_reader.py").read_text()


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {made}']",
        "!!python/object/new:subprocess.check_output [['touch', '{made}']]",
        "!!python/name:os.system",
        "!!python/module:antigravity",
    ],
)
def test_yaml_makes_no_objects(value: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    value = value.format(made=made)
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_config("conf.yaml", text=f"name: {value}\n")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_config(EXAMPLE, [f"name={value}"])
    assert not made.exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/raymtl", "a/b", "..", ".hidden", "a\n", "", "a b", "<script>"])
def test_names_that_become_folders_are_names(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        load_config(EXAMPLE, [f'name="{name}"'.replace("\n", "\\n")])
    for section, value in (("features", "{kind: id}"), ("tables", "{rows: 8}"), ("tasks", "{}")):
        key = f'"{name}"'.replace("\n", "\\n")
        with pytest.raises(ConfigError):
            load_config(EXAMPLE, [f"{section}={{{key}: {value}}}"])


@pytest.mark.parametrize("name", ["../../precious", "/precious", "..", "a/../../precious"])
def test_versions_are_named_and_not_reached_by_paths(name: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    store = str(tmp_path / "store")
    for command in (["show", name], ["verify", name], ["rollback", name], ["diff", name, name]):
        assert run_command(["versions", *command, "--store", store]) == 66
    assert precious.is_dir()


@pytest.mark.parametrize("day", ["../../2026-01-31", "2026-01-31/..", "20260131x"])
def test_days_are_days(day: str) -> None:
    conf = ["--config", EXAMPLE, "--set", "daily.store=/nowhere", "--set", "data.group=user_id"]
    assert run_command(["daily", *conf, "--date", day]) == 64
