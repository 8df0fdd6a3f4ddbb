"""Each failure of a cluster's API is one sentence."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from raymtl.errors import ClusterError, ConfigError
from raymtl.submission import client
from raymtl.submission.client import ADDRESS, connect


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers every question with `answer`."""

    answer = (200, "{}")

    def do_GET(self) -> None:
        code, text = self.answer
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(ADDRESS, "http://elsewhere:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (401, "Unauthorized: Missing authentication token", "requires a token, and none is set"),
        (403, "Forbidden: Invalid authentication token", "rejects the token"),
        (200, json.dumps({"ray_version": "2.41.0"}), "runs Ray 2.41.0, and this machine has Ray 2.60"),
        (200, "<html>", "is not a Ray dashboard"),
        (200, "{}", "is not a Ray dashboard"),
        (404, "nothing here", "is not a Ray dashboard (it sent HTTP 404)"),
        (502, "bad gateway", "is not a Ray dashboard (it sent HTTP 502)"),
    ],
)
def test_what_answers_is_not_what_was_meant(
    address: str, code: int, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dashboard, "answer", (code, text))
    with pytest.raises(ClusterError) as error:
        connect(address)
    assert said in str(error.value)
    assert address in str(error.value)
    assert "\n" not in str(error.value)


def test_the_address_that_is_named_is_the_one_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:2")
    monkeypatch.setattr(Dashboard, "answer", (200, json.dumps({"ray_version": client.ray.__version__})))
    assert connect(f"{address}/").client.get_address() == address


def test_no_answer(address: str) -> None:
    with pytest.raises(ClusterError, match=r"cannot reach a Ray cluster at http://127\.0\.0\.1:1 .*refused"):
        connect("http://127.0.0.1:1")


@pytest.mark.parametrize("wrong", ["head:8265", "ray://head:10001", "auto", "os://x", "http://", "http://head:port"])
def test_an_address_that_is_no_url_of_a_dashboard(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, "")
    with pytest.raises(ConfigError, match="set it to the URL of the cluster's dashboard"):
        connect(wrong)


def test_a_wrong_address_from_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, "head:8265")
    with pytest.raises(ConfigError, match=rf"^{ADDRESS} is `head:8265`; set it to the URL"):
        connect(None)


def test_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    with pytest.raises(ConfigError, match="dashboard is missing"):
        connect(None)
