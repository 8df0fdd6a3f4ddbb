"""A real S3 server on loopback (moto's), and a proxy before it that fails or takes its time when told to."""

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow.fs as pafs

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""What every process needs that speaks to it."""


class S3:
    """The server; `url("logs")` is a folder of its bucket."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | ENVIRONMENT,
        )
        wait_for_port(self.port)
        filesystem, _ = pafs.FileSystem.from_uri(self.url("x") + "&allow_bucket_creation=true")
        filesystem.create_dir("bucket")

    def url(self, folder: str, port: int | None = None) -> str:
        """As a user writes it, with MinIO's options."""
        return f"s3://bucket/{folder}?endpoint_override=127.0.0.1:{port or self.port}&scheme=http&region=us-east-1"

    def upload(self, source: str, folder: str) -> None:
        filesystem, inner = pafs.FileSystem.from_uri(self.url(folder))
        pafs.copy_files(source, inner, pafs.LocalFileSystem(), filesystem)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


class Proxy:
    """Hands requests on to the server; a share of them fails, by an answer or by a lost connection, or takes long."""

    def __init__(self, target: int, seed: int = 0):
        self.failing, self.slow_s = 0.0, 0.0
        self.failed = self.asked = 0
        dice, lock, proxy = random.Random(seed), threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self._body()
                with lock:
                    proxy.asked += 1
                    fails, kind = dice.random() < proxy.failing, dice.choice((500, 503, None))
                    proxy.failed += fails
                time.sleep(proxy.slow_s)
                if fails and kind is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if fails:
                    self._answer(kind, [], b"")
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", target, timeout=60)
                own = {"content-length", "transfer-encoding", "expect", "connection"}
                upstream.request(
                    self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() not in own}
                )
                answer = upstream.getresponse()
                data = answer.read()
                self._answer(answer.status, answer.getheaders(), data)
                upstream.close()

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return b"".join(pieces)

            def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
                self.send_response_only(status)
                for key, value in headers:
                    if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(key, value)
                length = {k.lower(): v for k, v in headers}.get("content-length", str(len(data)))
                self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

            def log_message(self, *_: Any) -> None:
                """Nothing: a line per request would drown the tests'."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    server = S3()
    try:
        yield server
    finally:
        server.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for_port(port: int, longest_s: float = 30.0) -> None:
    until = time.monotonic() + longest_s
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < until, f"nobody listens at port {port}"
        time.sleep(0.1)
