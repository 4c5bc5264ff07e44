"""What every job does first and last: make ``crysatom`` importable, speak plainly, end in one sentence.

Jobs import what is heavy after their flags were read: --help and a wrong flag answer in a third of a second, not ten.
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
    """Do a job and end with its exit code; what stops it is told in one sentence, and what a signal ended says so.

    Where Ray waits, and in others' code, what a handler of signals raises becomes something else; so it is noted.

    Args:
        main: The job; returns its exit code.
        kept: What of its work outlives Ctrl-C.
        resumes: Whether ``--resume`` goes on from there.

    """
    from crysatom.runs.ending import INTERRUPTED, UNREAD, how_to_go_on, say, told

    debug = DEBUG in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != DEBUG]
    ended: list[int] = []

    def end(number: int, _: object) -> NoReturn:
        ended.append(128 + number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(ended[0])

    def nobody_reads() -> None:
        ended.append(UNREAD)
        _terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    sys.stdout, sys.stderr = (_terminal(stream, nobody_reads) for stream in (sys.stdout, sys.stderr))
    code: int | None
    try:
        code = main()
    except BaseException as error:  # noqa: BLE001 - all end here
        if isinstance(error, KeyboardInterrupt):  # of a training that has saved
            ended.append(INTERRUPTED)
        code = ended[0] if ended else told(error, debug=debug)
        if code == INTERRUPTED:
            say(how_to_go_on(error, kept, resumes=resumes))
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # Ray takes seconds to end
    print(end="", flush=True)
    sys.exit(code)


def begin(config: Any, *, names: Sequence[str] = (), out_is_file: bool = False) -> None:
    """Set up the process, and refuse at once, not after ten seconds of imports, what cannot be done.

    Args:
        config: Configuration of the job.
        names: Names of the folders in ``out`` that the job will use, where they are known.
        out_is_file: Whether ``out`` is a file, rather than a folder.

    Raises:
        ValueError: If there are no such data, or results cannot be written.

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
    """Show what ``crysatom`` says it is doing, and all warnings, as plain lines."""
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


def _terminal(stream: TextIO, nobody_reads: Callable[[], None]) -> TextIO:
    """Return a stream of the process for people to read; a closed one, which is None, as it is."""
    from crysatom.config.terminal import Terminal

    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # in a locale that lacks a character of somebody's name
    return cast(TextIO, stream and Terminal(stream, nobody_reads))


def _terminate() -> None:
    """End as SIGTERM would, with a checkpoint where there is a training, from whatever thread."""
    if threading.current_thread() is threading.main_thread():
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


class _PlainFormatter(logging.Formatter):
    """The message, on one line if it is ours; its level in front where it is a warning or worse."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        from crysatom.config.terminal import one_line

        text = super().formatMessage(record)  # a stranger's id in it may hold a line break
        return one_line(text) if record.name.startswith("crysatom") else text

    def format(self, record: logging.LogRecord) -> str:
        from crysatom.config.secrets import scrubbed

        text = scrubbed(super().format(record))  # whatever a library says of a server
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
