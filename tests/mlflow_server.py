"""A real MLflow server, and a proxy that loses responses."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(directory: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{directory}/mlflow.db",
        "--artifacts-destination",
        str(directory / "a"),
    ]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return process
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError((directory / "server.log").read_text())


class LosesAnswers(ThreadingHTTPServer):
    """Proxy that forwards requests and responses, but drops the connection for some responses."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _PassOn)
        self.port, self.lost = port, dict.fromkeys(LOST, 1)


LOST = ("/runs/create", "/model-versions/create")


class _PassOn(BaseHTTPRequestHandler):
    server: LosesAnswers

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as there:
            there.request(self.command, self.path, body, dict(self.headers))
            answer = there.getresponse()
            content = answer.read()
        for end in LOST:
            if self.path.endswith(end) and self.server.lost[end]:
                self.server.lost[end] -= 1
                self.connection.shutdown(socket.SHUT_RDWR)
                return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - names of the base class

    def log_message(self, *_: object) -> None:
        """Log nothing."""
