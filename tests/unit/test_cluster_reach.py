"""An address where no Ray answers is reported in seconds; Ray itself would make 20 attempts of 41 seconds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import ray

from crysatom.cluster.reach import require_answer

PATIENCE_S = 1.5


def address(port: int) -> str:
    return f"{ray.util.get_node_ip_address()}:{port}"


@pytest.fixture
def silent() -> Iterator[int]:
    """Port of a server that accepts connections and never answers."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def http() -> Iterator[int]:
    with HTTPServer(("", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def refusal(where: str) -> str:
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="start its head") as error:
        require_answer(where, PATIENCE_S)
    assert time.monotonic() - start < PATIENCE_S + 5
    return str(error.value)


def test_nobody_there() -> None:
    where = address(free_port())
    assert refusal(where).startswith(f"no Ray answers at RAY_ADDRESS={where} ({where}: Connection refused")


def test_somebody_who_says_nothing(silent: int) -> None:
    assert f"({address(silent)}: no answer)" in refusal(address(silent))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_somebody_else(http: int) -> None:
    assert f"({address(http)}: " in refusal(address(http))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            "http://127.0.0.1:8265",
            "^RAY_ADDRESS=http://127.0.0.1:8265 is a dashboard's address, to which jobs are submitted",
        ),
        ("somewhere", "^RAY_ADDRESS=somewhere is not HOST:PORT$"),
    ],
)
def test_what_is_no_address_is_refused_at_once(where: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        require_answer(where)


@pytest.mark.usefixtures("ray_cluster")
def test_a_head_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    where = ray.get_runtime_context().gcs_address
    start = time.monotonic()
    require_answer(where)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    require_answer(where)
    assert time.monotonic() - start < 5
