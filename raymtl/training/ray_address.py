"""Check within seconds whether Ray answers at an address: Ray itself would retry for minutes, and log every attempt."""

import logging
import os
import socket
import subprocess
import sys

from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.services import canonicalize_bootstrap_address, find_gcs_addresses

from raymtl.errors import ClusterError, ConfigError

_CONNECT_S = 5.0
_ANSWER_S = 15.0
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The first bytes of an HTTP/2 (so gRPC) client: the preface and empty settings."""
_GREETING = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
_HEADER_BYTES = 9
_SETTINGS = 4


def find_cluster(address: str, source: str) -> str:
    """The address to join, which is `address` unless that is `auto`; `source` is the option or variable that holds it.

    Raises ConfigError if it is not the address of a cluster, and ClusterError if nothing listens or answers there, or something
    other than Ray does.
    """
    shown = f"`{address}`"
    if address == "auto":
        address = _own_cluster()
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as Ray does for `auto` alone
        shown = f"`{address}`, the last Ray started on this machine"
    host, port = _host_and_port(address, source)
    try:
        seen = _first_answer(host, port)
    except TimeoutError as error:
        raise unreachable(shown, f"no answer within {_ANSWER_S:.0f} s") from error
    except OSError as error:
        raise unreachable(shown, error.strerror or str(error)) from error
    if seen is not None:
        raise ClusterError(
            f"the server at {shown} is not Ray (it sent {seen}); use port 6379 of the cluster's head, or leave out the address "
            "to run on this machine"
        )
    if not address.startswith("ray://"):
        _greet(address, shown)
    return address


def _host_and_port(address: str, source: str) -> tuple[str, int]:
    scheme, mark, rest = address.rpartition("://")
    if scheme in ("http", "https"):
        raise ConfigError(
            f"{source} is `{address}`, the address of a dashboard, which accepts jobs; run `raymtl submit … --address "
            f"{address}`, or use HOST:6379 on a machine of that cluster, or leave out the address to run on this machine alone"
        )
    host, colon, port = rest.rpartition(":")
    if (mark and scheme != "ray") or not (host and colon and port.isdigit()) or int(port) > 65535:
        raise ConfigError(
            f"{source} is `{address}`; it must be HOST:PORT of a cluster's head, such as head:6379, or `auto`, or `local`"
        )
    return host.strip("[]"), int(port)


def _own_cluster() -> str:
    """The address of the cluster that `auto` means."""
    ray_log = logging.getLogger("ray")
    before = ray_log.level
    ray_log.setLevel(logging.ERROR)  # it lists all clusters that it finds
    find_gcs_addresses.cache_clear()
    try:
        return str(canonicalize_bootstrap_address("auto"))
    except (ConnectionError, OSError, ValueError) as error:
        raise ClusterError(
            "the address is `auto`, but no Ray runs on this machine; start one (`ray start --head`), use the cluster's "
            "HOST:6379, or leave out the address"
        ) from error
    finally:
        ray_log.setLevel(before)


def _first_answer(host: str, port: int) -> str | None:
    """None if a gRPC server answers, else a description of the answer. Raises OSError."""
    with socket.create_connection((host, port), timeout=_CONNECT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return None
        connection.settimeout(_ANSWER_S)
        connection.sendall(_HELLO)
        answer = b""
        while len(answer) < _HEADER_BYTES and (more := connection.recv(64)):
            answer += more
    if len(answer) >= _HEADER_BYTES and answer[3] == _SETTINGS:
        return None
    return repr(answer[:20].decode(errors="replace")) if answer else "nothing"


def _greet(address: str, shown: str) -> None:
    """Connect to Ray once, in a subprocess: Ray's client cannot be interrupted or kept from writing to the terminal."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _GREETING, address], capture_output=True, text=True, timeout=_ANSWER_S / 2
        )
        said = done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace") or "no answer"
    if "token" in said.lower():
        raise ClusterError(
            f"the cluster at {shown} rejects the token, or requires one; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the cluster's token (without either, ~/.ray/auth_token is read)"
        )
    if said:
        raise unreachable(shown, f"the server there is not a Ray head ({said.strip().splitlines()[-1][:200]})")


def unreachable(shown: str, reason: str) -> ClusterError:
    """The error for a cluster that cannot be joined."""
    return ClusterError(
        f"cannot reach a Ray cluster at {shown}: {reason}; check the address, or leave it out to run on this machine"
    )
