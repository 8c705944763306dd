"""A real S3 server for the tests, and a proxy before it that dawdles and fails by a script."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

KEY = "a-key-nobody-may-see"
SECRET = "a-secret-nobody-may-see"
BUCKET = "books"


def options(url: str, **more: Any) -> dict[str, Any]:
    """Storage options of s3fs for the server at ``url``."""
    return {"key": KEY, "secret": SECRET, "endpoint_url": url,
            "client_kwargs": {"region_name": "eu-central-1"}, **more}


def environment(url: str) -> dict[str, str]:
    """The same for a process that is given no options."""
    return {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "eu-central-1"}


def make_bucket(url: str) -> None:
    """The bucket of the tests, in a store that is new."""
    from botocore.session import get_session

    client = get_session().create_client("s3", aws_access_key_id=KEY, aws_secret_access_key=SECRET, endpoint_url=url,
                                         region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    client.close()


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """moto, listening on a port of its own, with a bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                                   stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise AssertionError((directory / "log").read_text())
                time.sleep(0.1)
            make_bucket(url)
            yield url
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Asked(NamedTuple):
    """One request that passed the proxy."""

    method: str
    path: str
    range: str


class Proxy:
    """Hands requests on, and notes them. ``latency`` seconds pass before each answer. ``plan(asked)`` may say that one
    fails: ``(status, code)``; ``"hang"``, ``"cut"``: an answer late, or half of it; ``"drop"``: none; ``"done"``: none,
    though it was handed on; ``"lost"``: what should be stored is acknowledged and is not."""

    def __init__(self, target: str) -> None:
        self.asked: list[Asked] = []
        self.sent = 0
        self.latency = 0.0
        self.plan: Callable[[Asked], Any] = lambda asked: None
        self._mutex = threading.Lock()
        host, port = target.removeprefix("http://").split(":")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                return None

            def _serve(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size) if size else None
                asked = Asked(self.command, self.path, self.headers.get("Range") or "")
                with proxy._mutex:
                    proxy.asked.append(asked)
                    fault = proxy.plan(asked)
                time.sleep(proxy.latency)
                if fault == "hang":
                    time.sleep(3)
                    self.close_connection = True
                    return
                if fault == "drop":
                    self.close_connection = True
                    return
                if fault == "lost" and self.command == "PUT":
                    status, data, headers = 200, b"", [("ETag", '"0"')]
                elif isinstance(fault, tuple):
                    status, code = fault
                    data = f"<Error><Code>{code}</Code><Message>as the script says</Message></Error>".encode()
                    headers = [("Content-Type", "application/xml")]
                else:
                    connection = http.client.HTTPConnection(host, int(port), timeout=30)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    status, data, headers = answer.status, answer.read(), answer.getheaders()
                    connection.close()
                if fault == "done":
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                length = next((v for n, v in headers if n.lower() == "content-length"), str(len(data))) \
                    if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if fault == "cut":
                    data = data[: len(data) // 2]
                    self.close_connection = True
                with proxy._mutex:
                    proxy.sent += len(data)
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def proxied(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
