"""From the process that controls the workers to the process of the job, as it happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)


class Forward(logging.Handler):
    """Takes what a worker warns of to the process of the job: a user does not read the logs of workers.

    Args:
        queue: As :func:`messages_to` yields it.

    """

    def __init__(self, queue: Queue) -> None:
        super().__init__(logging.WARNING)
        self.queue = queue

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        self.queue.put(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def messages_to(tell: Callable[[Any], None], on_sign_of_life: Callable[[], None]) -> Iterator[Queue]:
    """Yield a queue that any process of the cluster may put messages into; each is told here, in order.

    Args:
        tell: Called with each message, in a thread of this process that has ended when this context has. What it
            raises is logged.
        on_sign_of_life: Called whenever there is one.

    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # others may be removed
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
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
