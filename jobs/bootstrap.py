"""What every job does first: make ``crysatom`` importable here and in Ray's workers, and speak plainly.

Jobs import what is heavy after their flags were read: --help and a wrong flag answer in a third of a second, not ten.
"""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

PLATFORM = Path(__file__).resolve().parents[1] / "platform"
SEARCH_SPACES = PLATFORM.parent / "tune_spaces"
sys.path.insert(0, str(PLATFORM))


def start_ray() -> None:
    """Join the cluster this job was submitted to, or start Ray on this machine."""
    from crysatom.cluster.session import start_ray

    start_ray()


def run(main: Callable[[], int | None]) -> NoReturn:
    """Do a job and end with its exit code; with that of a process that SIGTERM has ended, if it was.

    Where Ray waits, the end that a handler of signals asks for becomes another one, of code 1.
    """
    told: list[int] = []

    def end(number: int, _: object) -> NoReturn:
        told.append(128 + number)
        sys.exit(told[0])

    signal.signal(signal.SIGTERM, end)
    try:
        code = main()
    except SystemExit:
        if told:
            sys.exit(told[0])
        raise
    sys.exit(code)


def set_up_process() -> None:
    """Show what ``crysatom`` says it is doing, and all warnings, as plain lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_PlainFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("crysatom").setLevel(logging.INFO)


def require_data(data: str) -> None:
    """End the job if there is no such data: at once, not after ten seconds of imports and ten of starting Ray."""
    from crysatom.crystals.sources import require_source
    from crysatom.pipelines.places import find

    try:
        require_source(str(find(data)))
    except ValueError as error:
        sys.exit(f"error: {error}")


class _PlainFormatter(logging.Formatter):
    """The message; its level in front where it is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        from crysatom.config.secrets import scrubbed

        text = scrubbed(super().format(record))  # whatever a library says of a server
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
