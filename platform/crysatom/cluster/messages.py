"""From the process that controls the workers to the terminal of the job, as it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from ray.util.queue import Queue

SECONDS_TO_FINISH = 10.0


@contextmanager
def messages_to(show: Callable[[Any], None], on_sign_of_life: Callable[[], None]) -> Iterator[Queue]:
    """Yield a queue that any process of the cluster may put messages into; each is shown here, in order.

    Args:
        show: Called with each message, in a thread of this process.
        on_sign_of_life: Called whenever there is one.

    """
    queue = Queue(actor_options={"num_cpus": 0})
    thread = Thread(target=_show_all, args=(queue, show, on_sign_of_life), daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join(SECONDS_TO_FINISH)
        queue.shutdown()


def _show_all(queue: Queue, show: Callable[[Any], None], on_sign_of_life: Callable[[], None]) -> None:
    while (message := queue.get()) is not None:
        on_sign_of_life()
        show(message)
