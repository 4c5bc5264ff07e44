"""First and last steps of every job: make ``crysatom`` importable, set up logging, end with one message.

Jobs import heavy packages only after parsing flags, so --help and wrong flags answer in 0.3 s, not 10 s.
"""

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

PLATFORM = Path(__file__).resolve().parents[1] / "platform"
SEARCH_SPACES = PLATFORM.parent / "tune_spaces"
sys.path.insert(0, str(PLATFORM))

DEBUG = "--debug"


def run(main: Callable[[], int | None], kept: str = "nothing", *, resumes: bool = False) -> NoReturn:
    """Run a job and exit with its code. An error is printed as one sentence, a signal gives the signal's exit code.

    Signals are recorded, because Ray and other libraries may replace the exception that a signal handler raises.

    Args:
        main: The job; returns its exit code.
        kept: What is kept of its work after Ctrl-C.
        resumes: Whether ``--resume`` continues from there.

    """
    from crysatom.runs.ending import INTERRUPTED, UNREAD, print_message, report_error, resume_hint

    debug = DEBUG in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != DEBUG]
    ended: list[int] = []

    def on_signal(number: int, _: object) -> NoReturn:
        ended.append(128 + number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(ended[0])

    def on_closed_pipe() -> None:
        ended.append(UNREAD)
        _terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    sys.stdout, sys.stderr = (_terminal(stream, on_closed_pipe) for stream in (sys.stdout, sys.stderr))
    code: int | None
    try:
        code = main()
    except BaseException as error:  # noqa: BLE001 - every exit passes here
        if isinstance(error, KeyboardInterrupt):  # raised by a training after its checkpoint
            ended.append(INTERRUPTED)
        code = ended[0] if ended else report_error(error, debug=debug)
        if code == INTERRUPTED:
            print_message(resume_hint(error, kept, resumes=resumes))
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # Ray takes seconds to shut down
    print(end="", flush=True)
    sys.exit(code)


def begin(config: Any, *, names: Sequence[str] = (), out_is_file: bool = False) -> None:
    """Set up the process and check inputs and outputs, before imports that take ten seconds.

    Args:
        config: Configuration of the job.
        names: Names of the folders in ``out`` that the job will use, if known.
        out_is_file: Whether ``out`` is a file, rather than a folder.

    Raises:
        ValueError: If the data do not exist, or results cannot be written.

    """
    set_up_process()
    from crysatom.crystals.sources import require_source
    from crysatom.runs.paths import find, require_file, require_folder, resolve

    given = config.flat()
    for source in (*(given.get(name, "") for name in ("source", "data", "measured")), *given.get("inputs", ())):
        if source:
            require_source(str(find(source)))
    out = resolve(given["out"])
    if out_is_file:
        require_file(out)
    else:
        require_folder(out, names)


def set_up_process() -> None:
    """Show log messages of ``crysatom`` and all warnings as plain lines."""
    stream: Any
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.plain = True
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_PlainFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("crysatom").setLevel(logging.INFO)


def start_ray() -> None:
    """Join the cluster this job was submitted to, or start Ray on this machine."""
    from crysatom.cluster.session import start_ray

    start_ray()


def _terminal(stream: TextIO, on_closed_pipe: Callable[[], None]) -> TextIO:
    """Return a wrapper of a standard stream for people to read; None, a closed stream, stays None."""
    from crysatom.config.terminal import Terminal

    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # for locales that lack a character
    return cast(TextIO, stream and Terminal(stream, on_closed_pipe))


def _terminate() -> None:
    """End the job as SIGTERM does, with a checkpoint if it trains, from any thread."""
    if threading.current_thread() is threading.main_thread():
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


class _PlainFormatter(logging.Formatter):
    """Formats a message, on one line if it is from crysatom, with its level in front if it is a warning or worse."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        from crysatom.config.terminal import one_line

        text = super().formatMessage(record)  # an id from a user's file may contain a line break
        return one_line(text) if record.name.startswith("crysatom") else text

    def format(self, record: logging.LogRecord) -> str:
        from crysatom.config.secrets import scrubbed

        text = scrubbed(super().format(record))  # libraries may print a server's URI
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
