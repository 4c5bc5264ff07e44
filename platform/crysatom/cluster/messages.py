"""From the process that controls the workers to the process of the job, as it happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from ray.util.queue import Queue

logger = logging.getLogger(__name__)


@contextmanager
def messages_to(tell: Callable[[Any], None], on_sign_of_life: Callable[[], None]) -> Iterator[Queue]:
    """Yield a queue that any process of the cluster may put messages into; each is told here, in order.

    Args:
        tell: Called with each message, in a thread of this process that has ended when this context has. What it
            raises is logged.
        on_sign_of_life: Called whenever there is one.

    """
    queue = Queue(actor_options={"num_cpus": 0})
    thread = Thread(target=_tell_all, args=(queue, tell, on_sign_of_life), daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join()
        queue.shutdown()


def _tell_all(queue: Queue, tell: Callable[[Any], None], on_sign_of_life: Callable[[], None]) -> None:
    while (message := queue.get()) is not None:
        on_sign_of_life()
        try:
            tell(message)
        except Exception:
            logger.exception("not published: %s", message)
