"""Every preset in a format of `raymtl export` against the program for torch, and the memory of an export with table files.

python -m tests.benchmarks.serving.formats parity [--format aoti] [PRESET ...]
python -m tests.benchmarks.serving.formats memory [--rows 4000000] [--width 64]

`parity` prints the largest difference of a prediction over 1, 6 and 33 rows, relative to the larger of 1 and the prediction, and
exits with 1 if one is above 1e-5. `memory` writes a version with one large table, and prints the peak memory of an export with
the tables in the programs and of one with table files, each in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

BOUND = 1e-5


def parity(form: str, presets: list[str]) -> bool:
    """Print a table; returns whether all are within the bound."""
    from raymtl.config.presets import PRESETS
    from raymtl.serving.formats import serialize
    from tests.helpers.exported_programs import onnx_program
    from tests.helpers.preset_models import exported_preset, random_inputs

    print(f"| preset | largest difference ({form}) | seconds to make | MiB |\n|---|---|---|---|")
    good = True
    for preset in presets or PRESETS:
        config, _, _, exported = exported_preset(preset, "none")
        entry, program = exported.facts["programs"]["whole"], exported.programs["whole"]
        began = time.perf_counter()
        data = serialize(program, form, entry)
        seconds, off = time.perf_counter() - began, 0.0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "whole.pt2")
            path.write_bytes(data)
            run = onnx_program(data, entry) if form == "onnx" else torch._inductor.aoti_load_package(str(path))
            for rows in (1, 6, 33):
                inputs = random_inputs(config, rows)
                with torch.no_grad():
                    found, expected = run(inputs), program.module()(inputs)
                off = max(off, float(((found - expected).abs() / expected.abs().clamp(min=1)).max()))
        good &= off <= BOUND
        print(f"| `{preset}` | {off:.1e} | {seconds:.1f} | {len(data) / 2**20:.1f} |", flush=True)
    return good


def memory(rows: int, width: int) -> None:
    """Print the peak of both ways, and of an export of the same version with a table of 1000 rows."""
    print("| table | tables in the programs | table files |\n|---|---|---|")
    for count in (1000, rows):
        with tempfile.TemporaryDirectory() as folder:
            _run("write", folder, str(count), str(width))
            peaks = [float(_run("export", folder, *more)) for more in ((), ("--table-files",))]
        size = count * width * 4 / 2**20
        print(
            f"| {count:,} × {width} ({size:,.0f} MiB) | " + " | ".join(f"{p:,.0f} MiB" for p in peaks) + " |",
            flush=True,
        )


def _run(*arguments: str) -> str:
    """The last line that a command of this module prints in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.serving.formats", *arguments]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    return lines[-2] if len(lines) > 1 else ""


def _export(folder: str, table_files: bool) -> None:
    from raymtl.serving.export import export_version
    from raymtl.serving.version import open_version

    export_version(open_version(f"{folder}/store"), f"{folder}/programs", "none", "torch", table_files)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def _write(folder: str, rows: int, width: int) -> None:
    """A version in which the table `item` has this size."""
    from raymtl.config.load import config_from_dict
    from tests.helpers.served_version import publish_version, served_config, write_logs

    write_logs(Path(folder))
    raw = served_config(Path(folder)).model_dump(mode="json", exclude_unset=True)
    raw["tables"]["item"] |= {"rows": rows, "dim": width}
    publish_version(Path(folder), config_from_dict(raw))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_parity = commands.add_parser("parity")
    of_parity.add_argument("--format", default="aoti", choices=["aoti", "onnx"])
    of_parity.add_argument("presets", nargs="*")
    of_memory = commands.add_parser("memory")
    of_memory.add_argument("--rows", type=int, default=4_000_000)
    of_memory.add_argument("--width", type=int, default=64)
    of_export = commands.add_parser("export")
    of_export.add_argument("folder")
    of_export.add_argument("--table-files", action="store_true")
    of_write = commands.add_parser("write")
    for name, kind in (("folder", str), ("rows", int), ("width", int)):
        of_write.add_argument(name, type=kind)
    options = parser.parse_args()
    if options.command == "parity":
        sys.exit(not parity(options.format, options.presets))
    if options.command == "memory":
        memory(options.rows, options.width)
    elif options.command == "write":
        _write(options.folder, options.rows, options.width)
    else:
        _export(options.folder, options.table_files)


if __name__ == "__main__":
    main()
