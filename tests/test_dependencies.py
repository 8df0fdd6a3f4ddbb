"""The check of the installed stack, and the two locks that it is installed from."""

import importlib
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import raymtl
from raymtl import dependencies
from raymtl.cli.main import run_command
from raymtl.dependencies import StackError, check_required, check_stack, package_versions, required_versions
from raymtl.errors import UserError

REQUIREMENTS = Path(__file__).parent.parent / "requirements"
GOOD = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}


@pytest.fixture
def installed(monkeypatch):
    """Pretends that exactly these packages are installed."""

    def pretend(packages: dict[str, str]) -> None:
        def version(name: str) -> str:
            if name not in packages:
                raise metadata.PackageNotFoundError(name)
            return packages[name]

        monkeypatch.setattr(dependencies.metadata, "version", version)

    return pretend


def message(installed, packages) -> str:
    installed(packages)
    with pytest.raises(StackError) as caught:
        check_stack()
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_stack_of_this_machine_fits():
    check_stack()


@pytest.mark.parametrize(
    ("torch", "other"), [("2.11.1", "1.6.0"), ("2.12.0+cu130", "1.7.2"), ("2.13.0", "1.8.0"), ("2.14.0", "1.9.0")]
)
def test_every_known_pair_is_let_through(installed, torch, other):
    installed({"torch": torch, "torchrec": other, "fbgemm-gpu-cpu": other})
    check_stack()


@pytest.mark.parametrize(
    "change", [{"torch": "2.12.1"}, {"torchrec": "1.7.0"}, {"fbgemm-gpu-cpu": "1.9.0"}, {"torchrec": "local"}]
)
def test_minors_that_do_not_fit_are_all_named(installed, change):
    packages = GOOD | change
    text = message(installed, packages)
    for name, version in packages.items():
        assert f"{name} {version}" in text
    assert "make setup" in text


def test_the_message_names_the_pair_to_install(installed):
    assert "torch 2.12 goes with torchrec 1.7 and fbgemm 1.7" in message(installed, GOOD | {"torch": "2.12.1"})


def test_an_unknown_torch_is_named(installed):
    text = message(installed, GOOD | {"torch": "2.20.0"})
    assert "torch 2.20.0" in text
    assert "2.13" in text


@pytest.mark.parametrize("name", list(GOOD))
def test_a_missing_package_is_named(installed, name):
    text = message(installed, {k: v for k, v in GOOD.items() if k != name})
    assert text.startswith(name.removesuffix("-gpu-cpu") + " not installed")


def test_both_builds_of_fbgemm_are_refused(installed):
    assert "both installed" in message(installed, GOOD | {"fbgemm-gpu": "1.8.0"})


def test_a_build_that_cannot_be_loaded_is_named_with_its_cause(installed, monkeypatch):
    def fails(name: str):
        try:
            raise OSError("libnvidia-ml.so.1: cannot open shared object file")
        except OSError as error:
            raise OSError(f"Could not load this library: {name}") from error

    monkeypatch.setattr(importlib, "import_module", fails)
    text = message(installed, {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"})
    assert "fbgemm-gpu 1.8.0 cannot be loaded with torch 2.13.0" in text
    assert "libnvidia-ml.so.1" in text
    assert "make setup LOCK=cpu" in text


CPU = "run `pip uninstall -y fbgemm-gpu-cpu fbgemm-gpu`, then `pip install --no-deps torchrec~={0} fbgemm-gpu-cpu~={0}`"


@pytest.mark.parametrize(
    ("packages", "remedy"),
    [
        ({"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.7.0"}, CPU.format("1.8.0")),
        ({"torch": "2.12.1", "torchrec": "1.8.0", "fbgemm-gpu": "1.7.0"}, CPU.format("1.7.0")),
        ({"torch": "2.13.0", "torchrec": "1.8.0"}, CPU.format("1.8.0")),
        (GOOD | {"fbgemm-gpu": "1.8.0"}, CPU.format("1.8.0")),
        ({"torchrec": "1.8.0"}, CPU.format("1.8.0").replace("run ", "run `pip install torch~=2.13.0`, then ")),
    ],
)
def test_without_a_checkout_the_remedy_is_pip(installed, monkeypatch, tmp_path, packages, remedy):
    monkeypatch.setattr(dependencies, "_LOCKS", tmp_path / "requirements")
    monkeypatch.setattr(dependencies.shutil, "which", lambda name: None)
    assert message(installed, packages).endswith(f"; {remedy}")


def test_without_a_checkout_a_build_that_cannot_be_loaded_is_replaced(installed, monkeypatch, tmp_path):
    monkeypatch.setattr(dependencies, "_LOCKS", tmp_path / "requirements")
    monkeypatch.setattr(dependencies.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)
    packages = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"}
    assert message(installed, packages).endswith(f"; {CPU.format('1.8.0')}")
    monkeypatch.setattr(dependencies.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert message(installed, packages).endswith("torchrec~=1.8.0 fbgemm-gpu~=1.8.0`")


def test_the_package_asks_for_the_trio_of_the_locks():
    needed = tomllib.loads((REQUIREMENTS.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    for name in ("torch", "torchrec", "fbgemm-gpu"):
        major, minor = dependencies._minor(lock("gpu.txt")[name])
        assert f"{name}=={major}.{minor}.*" in needed
    assert dependencies._minor(lock("gpu.txt")["torch"]) == dependencies.TESTED


def test_package_versions_leaves_out_what_is_not_installed(installed):
    installed({"torch": "2.13.0"})
    found = package_versions()
    assert found.pop("python").startswith("3.")
    assert found.pop("raymtl") == raymtl.__version__
    assert found == {"torch": "2.13.0"}


def lock(name: str) -> dict[str, str]:
    lines = [x for x in (REQUIREMENTS / name).read_text().splitlines() if not x.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    return dict(line.split("==") for line in lines)


def test_the_locks_pin_a_trio_that_fits():
    cpu, gpu = lock("cpu.txt"), lock("gpu.txt")
    assert cpu["torchrec"] == gpu["torchrec"] == cpu["fbgemm-gpu-cpu"] == gpu["fbgemm-gpu"]
    for pins in (cpu, gpu):
        assert dependencies.PAIRS[dependencies._minor(pins["torch"])] == dependencies._minor(pins["torchrec"])


def test_the_locks_differ_in_cuda_alone():
    cpu, gpu = lock("cpu.txt"), lock("gpu.txt")
    assert set(cpu) - set(gpu) == {"fbgemm-gpu-cpu"}
    assert {name for name in set(gpu) - set(cpu) if not name.startswith(("nvidia-", "cuda-"))} == {
        "fbgemm-gpu",
        "triton",
    }
    assert all(gpu[name] == version for name, version in cpu.items() if name in gpu)


def test_required_versions_are_those_that_are_here() -> None:
    required = required_versions()
    assert "torch==" in required
    assert "fbgemm==" in required
    assert "+" not in required  # the CPU and the CUDA build are one version
    check_required(required)
    check_required("ray==" + metadata.version("ray"))


@pytest.mark.parametrize(
    ("required", "said"),
    [
        (
            "torch==1.0.0,ray==" + metadata.version("ray"),
            r"^torch is \d+\.\d+\.\d+ and must be 1\.0\.0 on .* \(--require\); install the same lock file",
        ),
        ("nothing==3", "^nothing is not installed and must be 3 on "),
    ],
)
def test_other_versions_are_named(required: str, said: str) -> None:
    with pytest.raises(StackError, match=said) as error:
        check_required(required)
    assert error.value.exit_code == 71
    assert run_command(["--require", required, "config", "presets"]) == 71
