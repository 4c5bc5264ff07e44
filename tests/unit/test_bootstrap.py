"""How a job's process ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

import bootstrap


@pytest.fixture(autouse=True)
def _own_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def terminated() -> NoReturn:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    raise AssertionError("still here")


def terminated_while_ray_waits() -> NoReturn:
    """Ray's Cython makes an end of code 1 of any other that a handler of signals raises."""
    try:
        terminated()
    except SystemExit:
        sys.exit(1)


def wrong() -> NoReturn:
    sys.exit("error: of the user")


@pytest.mark.parametrize(
    ("main", "code"),
    [
        (lambda: None, None),
        (lambda: 3, 3),
        (wrong, "error: of the user"),
        (terminated, 128 + signal.SIGTERM),
        (terminated_while_ray_waits, 128 + signal.SIGTERM),
    ],
)
def test_the_exit_code_says_how_a_job_ended(main: Callable[[], int | None], code: int | str | None) -> None:
    with pytest.raises(SystemExit) as end:
        bootstrap.run(main)
    assert end.value.code == code
