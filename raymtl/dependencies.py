"""Which versions of the stack are installed, and whether torch, torchrec and fbgemm fit together.

A minor version of torch goes with exactly one minor version of torchrec and fbgemm. Another combination often imports
and then fails in the middle of a step, so `check_stack` reports it before anything starts.
"""

import importlib
import logging
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path

from raymtl import __version__
from raymtl.errors import UserError

PAIRS = {(2, 11): (1, 6), (2, 12): (1, 7), (2, 13): (1, 8), (2, 14): (1, 9)}
"""Minor of torch -> minor of torchrec and fbgemm."""

FBGEMM = ("fbgemm-gpu-cpu", "fbgemm-gpu")
"""The CPU and the CUDA build of fbgemm; both unpack into the folder `fbgemm_gpu`."""

TESTED = (2, 13)
"""Minor of torch in the lock files and in the package's requirements."""

REPORTED = ("torch", "torchrec", *FBGEMM, "ray", "pyarrow", "numpy", "pydantic")


class StackError(UserError):
    """The installed torch, torchrec and fbgemm do not work together."""

    exit_code = 71


def package_versions() -> dict[str, str]:
    """Versions of raymtl, Python and the packages that decide what a run computes, as far as they are installed."""
    found = {name: version for name in REPORTED if (version := _version(name))}
    return {"raymtl": __version__, "python": platform.python_version(), **found}


def required_versions() -> str:
    """The packages installed here as `check_required` takes them: `name==version`, comma-separated, without build tags."""
    found = {name: version.partition("+")[0] for name, version in package_versions().items() if name != "python"}
    # This machine may have one of the two builds and the checked machine the other
    return ",".join(f"{'fbgemm' if name in FBGEMM else name}=={version}" for name, version in found.items())


def check_required(required: str) -> None:
    """Raise a `StackError` of one sentence if an installed package has another version than `required` names."""
    here = dict(one.split("==") for one in required_versions().split(","))
    wanted = dict(one.partition("==")[::2] for one in required.split(","))
    other = [(name, here.get(name), version) for name, version in wanted.items() if here.get(name) != version]
    if other:
        raise StackError(
            ", ".join(f"{name} is {found or 'not installed'} and must be {version}" for name, found, version in other)
            + f" on {platform.node()} (--require); install the same lock file in both places, or remove --require (for a job: "
            "`raymtl submit --any-versions`)"
        )


def check_stack() -> None:
    """Raise a `StackError` of one sentence if the trio is incomplete, does not fit together or cannot be loaded."""
    check_versions()
    _check_loads()


def check_versions() -> None:
    """Like `check_stack`, without loading anything."""
    torch, torchrec = _version("torch"), _version("torchrec")
    fbgemm = {name: version for name in FBGEMM if (version := _version(name))}
    missing = [name for name, found in (("torch", torch), ("torchrec", torchrec), ("fbgemm", fbgemm)) if not found]
    if torch is None or torchrec is None or not fbgemm:
        raise StackError(f"{' and '.join(missing)} not installed; {_remedy()}")
    if len(fbgemm) == 2:
        raise StackError(
            "fbgemm-gpu-cpu and fbgemm-gpu are both installed and overwrite each other's files; "
            + (f"run `pip uninstall -y {' '.join(FBGEMM)}`, then `make setup`" if _LOCKS.exists() else _remedy())
        )
    name, version = next(iter(fbgemm.items()))
    wanted = PAIRS.get(_minor(torch))
    if wanted is None:
        known = ", ".join(f"{a}.{b}" for a, b in PAIRS)
        raise StackError(f"torch {torch} is not a supported version ({known}); {_remedy()}")
    if _minor(torchrec) != wanted or _minor(version) != wanted:
        pair = f"{wanted[0]}.{wanted[1]}"
        raise StackError(
            f"torch {torch}, torchrec {torchrec} and {name} {version} do not fit together: "
            f"torch {'.'.join(map(str, _minor(torch)))} goes with torchrec {pair} and fbgemm {pair}; {_remedy()}"
        )


def _check_loads() -> None:
    disabled = logging.root.manager.disable
    logging.disable(
        logging.CRITICAL
    )  # fbgemm logs several lines before it raises; the sentence below holds their content
    try:
        importlib.import_module("fbgemm_gpu")
    except (ImportError, OSError) as error:
        cause: BaseException = error
        while cause.__cause__ or cause.__context__:
            cause = cause.__cause__ or cause.__context__ or cause
        name = next((n for n in FBGEMM if _version(n)), "fbgemm")
        raise StackError(
            f"{name} {_version(name)} cannot be loaded with torch {_version('torch')} ({cause}); "
            + (
                "run `make setup LOCK=cpu` on a machine without a GPU, `make setup LOCK=gpu` on one with a GPU"
                if _LOCKS.exists()
                else _remedy()
            )
        ) from error
    finally:
        logging.disable(disabled)


_LOCKS = Path(__file__).parents[1] / "requirements"
"""The lock files, in a checkout."""


def _remedy() -> str:
    """How to install what fits together: from the locks of a checkout, else with pip."""
    if _LOCKS.exists():
        return "run `make setup`"
    fits = PAIRS.get(_minor(_version("torch") or ""))
    major, minor = fits or PAIRS[TESTED]
    build = "fbgemm-gpu" if shutil.which("nvidia-smi") else "fbgemm-gpu-cpu"
    commands = [
        *([] if fits else ["pip install torch~={}.{}.0".format(*TESTED)]),
        f"pip uninstall -y {' '.join(FBGEMM)}",
        f"pip install --no-deps torchrec~={major}.{minor}.0 {build}~={major}.{minor}.0",
    ]
    return "run " + ", then ".join(f"`{command}`" for command in commands)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> tuple[int, int]:
    """`2.13.0+cpu` -> (2, 13); (0, 0) for a version of another form."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
