"""An address at which no Ray answers is one sentence within seconds."""

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from raymtl.errors import ClusterError, ConfigError
from raymtl.training import ray_address
from raymtl.training.ray_address import find_cluster


@pytest.fixture
def web_server() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """A socket that takes connections and says nothing, as a head does that is stopped or overloaded."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("source", ["--address", "RAY_ADDRESS"])
@pytest.mark.parametrize("url", ["http://head:8265", "https://ray.example.com"])
def test_the_address_of_a_dashboard_is_known_as_such(url: str, source: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{source} is `{url}`, the address of a dashboard.*raymtl submit … --address {url}"
    ):
        find_cluster(url, source)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port", "head:70000", "grpc://head:6379", ""])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="must be HOST:PORT of a cluster's head"):
        find_cluster(address, "--address")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_another_server_is_not_ray(web_server: str, scheme: str) -> None:
    with pytest.raises(ClusterError, match=r"is not Ray \(it sent .*DOCTYPE HTML.*port 6379"):
        find_cluster(scheme + web_server, "--address")


def test_who_says_nothing_is_not_waited_for(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "_ANSWER_S", 0.5)
    with pytest.raises(ClusterError, match=f"cannot reach a Ray cluster at `{silent}`: no answer within"):
        find_cluster(silent, "--address")


def test_a_ray_that_has_died_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start` leaves its address behind."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services._cached_find_gcs_addresses", _no_others)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match=rf":{port}`, the last Ray started on this machine: Connection refused"):
        find_cluster("auto", "--address")
    (tmp_path / "ray" / "ray_current_cluster").unlink()
    with pytest.raises(ClusterError, match="no Ray runs on this machine; start one"):
        find_cluster("auto", "--address")


def _no_others() -> set[str]:
    return set()


_no_others.cache_clear = lambda: None  # type: ignore[attr-defined]


@pytest.mark.ray
def test_only_the_head_itself_with_the_right_token_will_do(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    head = ray.get_runtime_context().gcs_address
    assert find_cluster(head, "--address") == head
    raylet = next(p for p in psutil.Process().children(recursive=True) if p.name() == "raylet")
    port = next(c.laddr.port for c in raylet.net_connections("inet") if c.status == psutil.CONN_LISTEN)
    with pytest.raises(ClusterError, match="the server there is not a Ray head"):
        find_cluster(f"{head.rpartition(':')[0]}:{port}", "--address")
    for token in ("wrong", None):
        if token is None:
            monkeypatch.setenv("HOME", str(tmp_path))
            monkeypatch.delenv("RAY_AUTH_TOKEN")
        else:
            monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(ClusterError, match="rejects the token, or requires one; set RAY_AUTH_MODE=token"):
            find_cluster(head, "--address")
