"""A training that is told to end, by SIGTERM, ends after the step at hand, with a checkpoint."""

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
"""After which the job ends without a checkpoint: Slurm and Kubernetes kill 30 seconds after SIGTERM."""

EXIT_CODE = 128 + signal.SIGTERM


@contextmanager
def saved_on_sigterm(checkpoints: Path) -> Iterator[None]:
    """Let SIGTERM ask a training for a checkpoint and its end; a second one, or :data:`GRACE_S`, end it at once.

    The workers may be on other machines, so they are asked by a file beside the checkpoints, which anybody may write.

    Args:
        checkpoints: Folder of the training's checkpoints.

    Raises:
        SystemExit: With the code of a process that SIGTERM ended, when the training has ended as asked.

    """
    request = checkpoints / STOP
    request.unlink(missing_ok=True)  # of a training that was killed before it saw it
    timer = threading.Timer(GRACE_S, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True

    def ask(number: int, frame: FrameType | None) -> None:
        if request.exists():
            if callable(before):  # which knows more of how this process is to end
                before(number, frame)
            sys.exit(128 + number)
        logger.info("SIGTERM: saving after this step, then ending")
        request.parent.mkdir(parents=True, exist_ok=True)
        request.touch()
        timer.start()

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, ask) if main else None
    try:
        yield
    except StoppedError as error:
        logger.info("%s; go on with --resume", error)
        raise SystemExit(EXIT_CODE) from None
    finally:
        timer.cancel()
        if main:
            signal.signal(signal.SIGTERM, before)
        request.unlink(missing_ok=True)
