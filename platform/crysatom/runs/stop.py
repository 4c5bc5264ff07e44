"""SIGTERM and Ctrl-C end a training after the current step, with a checkpoint."""

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
"""Time until the job ends without a checkpoint. Slurm and Kubernetes kill 30 seconds after SIGTERM."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def checkpoint_on_signal(checkpoints: Path) -> Iterator[None]:
    """Let a signal request a checkpoint and the end; a second signal, or :data:`GRACE_S`, ends the job at once.

    Workers may be on other machines: the request is a file beside the checkpoints, which anybody may write.

    Args:
        checkpoints: Folder of the training's checkpoints.

    Raises:
        SystemExit: After SIGTERM, with the exit code of a process that it ended.
        KeyboardInterrupt: After Ctrl-C.

    """
    request = checkpoints / STOP
    request.unlink(missing_ok=True)  # left by a training that was killed before it saw it
    asked: list[int] = []
    timers: list[threading.Timer] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if request.exists():
            if callable(before := befores[signal.Signals(number)]):  # the job's handler, which notes the exit code
                before(number, frame)
            sys.exit(128 + number)
        logger.info("%s: saving after this step, then ending; a second one ends at once", signal.Signals(number).name)
        asked.append(number)
        request.parent.mkdir(parents=True, exist_ok=True)
        request.touch()
        timers.append(threading.Timer(GRACE_S, os.kill, (os.getpid(), number)))
        timers[-1].daemon = True
        timers[-1].start()

    main = threading.current_thread() is threading.main_thread()
    befores = {number: signal.signal(number, ask) for number in SIGNALS if main}
    try:
        yield
    except StoppedError as error:
        logger.info("%s; go on with --resume", error)
        if signal.SIGINT in asked:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        for timer in timers:
            timer.cancel()
        for number, before in befores.items():
            signal.signal(number, before)
        request.unlink(missing_ok=True)
