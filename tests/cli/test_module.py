"""`python -m raymtl.cli` is the command `raymtl`."""

import subprocess
import sys


def test_help_of_the_module() -> None:
    done = subprocess.run([sys.executable, "-m", "raymtl.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "daily" in done.stdout
