"""Messages from Ray's controller and workers to the job's process, delivered as they are sent."""

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
    """Sends a worker's warnings to the job's process, because users do not read the logs of workers.

    Args:
        queue: Queue that :func:`messages_to` yields.

    """

    def __init__(self, queue: Queue) -> None:
        super().__init__(logging.WARNING)
        self.queue = queue

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        self.queue.put(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def messages_to(handle: Callable[[Any], None], on_sign_of_life: Callable[[], None]) -> Iterator[Queue]:
    """Yield a queue for messages from any process of the cluster; they are handled here, in order.

    Args:
        handle: Called with each message, in a thread of this process that ends with the context. Its exceptions are
            logged.
        on_sign_of_life: Called before each message.

    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # others may be removed
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    thread = Thread(target=_deliver, args=(queue, handle, on_sign_of_life), daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join()
        queue.shutdown()


def _deliver(queue: Queue, handle: Callable[[Any], None], on_sign_of_life: Callable[[], None]) -> None:
    while (message := queue.get()) is not None:
        on_sign_of_life()
        try:
            handle(message)
        except Exception:
            logger.exception("not published: %s", message)
