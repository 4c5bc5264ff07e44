"""SIGTERM and Ctrl-C stop a training after the current step, with a checkpoint."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from crysatom.training.context import STOP, StoppedError

logger = logging.getLogger(__name__)

GRACE_S = 20.0
"""Seconds until the job ends without a checkpoint. Slurm and Kubernetes kill 30 seconds after SIGTERM."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def checkpoint_on_signal(checkpoints: Path) -> Iterator[None]:
    """Turn a signal into a request to checkpoint and stop; a second signal, or :data:`GRACE_S`, ends the job at once.

    Workers may be on other machines, so the request is a file beside the checkpoints, which anybody may write.

    Args:
        checkpoints: Folder of the training's checkpoints.

    Raises:
        SystemExit: After SIGTERM, with the exit code of a process that it ended.
        KeyboardInterrupt: After Ctrl-C.

    """
    request = checkpoints / STOP
    request.unlink(missing_ok=True)  # left by a training that was killed before it read it
    received: list[int] = []
    timers: list[threading.Timer] = []

    def request_stop(number: int, frame: FrameType | None) -> None:
        if request.exists():
            if callable(before := befores[signal.Signals(number)]):  # the job's handler, which records the exit code
                before(number, frame)
            sys.exit(128 + number)
        name = signal.Signals(number).name
        logger.info("%s: saving after this step, then stopping; a second one stops at once", name)
        received.append(number)
        request.parent.mkdir(parents=True, exist_ok=True)
        request.touch()
        timers.append(threading.Timer(GRACE_S, os.kill, (os.getpid(), number)))
        timers[-1].daemon = True
        timers[-1].start()

    main = threading.current_thread() is threading.main_thread()
    befores = {number: signal.signal(number, request_stop) for number in SIGNALS if main}
    try:
        yield
    except StoppedError as error:
        logger.info("%s; continue with --resume", error)
        if signal.SIGINT in received:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        for timer in timers:
            timer.cancel()
        for number, before in befores.items():
            signal.signal(number, before)
        request.unlink(missing_ok=True)
