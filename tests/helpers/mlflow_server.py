"""A real MLflow server on loopback."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.helpers.s3_server import free_port

START_S = 90


class MlflowServer:
    """The server, with its database `server.db` and artefacts in `folder`."""

    def __init__(self, folder: Path):
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        store, artefacts = f"sqlite:///{folder / 'server.db'}", str(folder / "artefacts")
        options = ["--backend-store-uri", store, "--artifacts-destination", artefacts, "--workers", "1"]
        self._log = (folder / "server.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *options],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        end = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < end, f"no answer within {START_S} s"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def close(self) -> None:
        """End the server and its workers."""
        self._process.terminate()
        self._process.wait(20)
        self._log.close()
