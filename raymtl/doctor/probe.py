"""The checks of one node, run by an actor on it."""

import time
import urllib.error
import urllib.request
from typing import Any

import ray
from ray._private.services import get_webui_url_from_internal_kv

from raymtl.doctor import machine, stack, storage
from raymtl.errors import UserError
from raymtl.storage.filesystem import list_folder, open_filesystem
from raymtl.storage.retry import reason

_AGENT_STARTS_S = 10.0  # on a Ray that has just started, the agent is not running yet


class Probe:
    """Checks its node; every method has its own thread, so that one that hangs does not block the others."""

    def clock(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def stack(self, limit_s: float) -> dict[str, Any]:
        return stack.look(limit_s)

    def machine(self) -> dict[str, Any]:
        return machine.look(ray.get_runtime_context().worker.node.get_session_dir_path())

    def endpoint(self, address: str, port: int) -> str | None:
        """The error of Ray's metrics endpoint on this node, or None."""
        until = time.monotonic() + _AGENT_STARTS_S
        while True:
            try:
                with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=5) as answer:
                    answer.read(1)
                return None
            except OSError as error:
                if time.monotonic() >= until:
                    return str(error)
                time.sleep(0.5)

    def dashboard(self) -> tuple[str, str | None]:
        """Address of the cluster's dashboard (empty without one), and why this node cannot reach it, or None."""
        # A worker's own node object always returns Ray's default address
        url = get_webui_url_from_internal_kv() or ""
        try:
            if url:
                urllib.request.urlopen(f"http://{url}/api/version", timeout=5).close()
        except urllib.error.HTTPError:
            pass  # it answers, but rejects a request without a token
        except OSError as error:
            return url, str(error)
        return url, None

    def storage(self, folder: str, node: str) -> dict[str, Any]:
        return storage.try_operations(folder, node)

    def remove_trial_files(self, folder: str, node: str) -> str | None:
        return storage.remove_trial_files(folder, node)

    def listing(self, path: str) -> str | None:
        """Why this node cannot list a folder, or None."""
        try:
            filesystem, inner = open_filesystem(path)
            list_folder(filesystem, inner, recursive=False)
        except OSError as error:
            return reason(error)
        except UserError as error:
            return str(error)
        return None
