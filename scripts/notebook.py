"""Execute the cells of docs/notebook.md in order, in an empty folder, and put what they print under them.

CENSUS=FOLDER python scripts/notebook.py [--write] [--folder DIR]

A cell is a block `bash` or `python`; all python cells share one namespace, and `$CENSUS` is the folder of the census files. The
block `text` after a cell is its output. Without `--write` the outputs are only compared by their structure (`shape`), which
does not depend on numbers; any difference ends the script with 1. A cell that fails ends it at once.
"""

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "notebook.md"
_CELL = re.compile(r"```(bash|python)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.S)


def executed(text: str, folder: str) -> str:
    """The page with the outputs of its cells, executed in a folder."""
    names: dict[str, object] = {"__name__": "notebook"}

    def run(match: re.Match[str]) -> str:
        kind, code, _ = match.groups()
        output = _shell(code) if kind == "bash" else _python(code, names)
        output = "\n".join(line.rstrip() for line in output.replace(f"{folder}/", "").splitlines())
        shown = f"\n```text\n{output}\n```\n" if output.strip() else ""
        return f"```{kind}\n{code}```\n{shown}"

    with contextlib.chdir(folder):
        return _CELL.sub(run, text)


def shape(text: str) -> list[tuple[str, list[str]]]:
    """Each cell with the first words of its output's lines; how often one repeats does not count."""
    return [(code, _words(output or "")) for _, code, output in _CELL.findall(text)]


def _words(output: str) -> list[str]:
    """The first word of each line, without numbers, marks and what is drawn."""
    lines = [re.sub(r"[^a-z_:% ]", "", line.lower()).split() for line in output.splitlines()]
    return list(dict.fromkeys(line[0] for line in lines if line))


def _shell(code: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "110",
    }
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"the cell failed with {done.returncode}:\n{code}\n{done.stdout}{done.stderr}")
    return done.stdout


def _python(code: str, names: dict[str, object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(code, str(PAGE), "exec"), names)
    return output.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--folder", help="an empty folder to keep; default: a temporary one")
    options = parser.parse_args()
    before = PAGE.read_text()
    with tempfile.TemporaryDirectory() as temporary:
        after = executed(before, os.path.abspath(options.folder or temporary))
    if options.write:
        PAGE.write_text(after)
    elif shape(before) != shape(after):
        raise SystemExit("docs/notebook.md does not show what its cells print; run this script with --write")


if __name__ == "__main__":
    main()
