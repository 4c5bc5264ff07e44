"""How a job ends: what it says, and its exit code."""

from __future__ import annotations

import shlex
import signal
import sys
import traceback

from crysatom.config.secrets import scrubbed
from crysatom.config.terminal import printable

FAILED, BUG = 1, 70
INTERRUPTED, UNREAD = 128 + signal.SIGINT, 128 + signal.SIGPIPE
"""Exit codes, as docs/reliability.md has them; 70 is EX_SOFTWARE of sysexits.h."""

EXPECTED = (ValueError, OSError, RuntimeError, MemoryError)
"""What users, files, disks and networks can cause; what a job raises otherwise is a bug."""

BUGS = (NotImplementedError, RecursionError)
"""Subclasses of the former that are bugs all the same."""

SERVICES = frozenset({"ray", "mlflow", "sqlalchemy", "grpc", "urllib3"})
"""Packages that raise errors of their own when what they speak to is away or refuses."""

RESUME = "--resume"


def told(error: BaseException, *, debug: bool = False) -> int:
    """Say why a job ended, in one line on standard error; return its exit code.

    Args:
        error: That ended it, SystemExit among them.
        debug: Whether to show the traceback of any error, not only of a bug.

    """
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        say(error.code)
        return FAILED
    cause = _cause(error)
    bug = not _is_expected(cause)
    if debug or bug:
        say("".join(traceback.format_exception(error)).rstrip())
    sentence = "; ".join(line.strip() for line in _sentence(cause).splitlines() if line.strip())
    if bug:
        sentence = f"this is a bug of crysatom ({sentence}); please report it to its maintainers, with the lines above"
    say(f"error: {sentence}")
    return BUG if bug else FAILED


def how_to_go_on(error: BaseException, kept: str, *, resumes: bool) -> str:
    """Return what a user who pressed Ctrl-C wants to know.

    Args:
        error: That the signal became; its notes say where things are.
        kept: What is kept of the job's work.
        resumes: Whether ``--resume`` goes on from there.

    """
    flag = [RESUME] if resumes and RESUME not in sys.argv else []
    lines = ["", f"interrupted; kept: {kept}", *getattr(error, "__notes__", ())]
    return "\n".join([*lines, f"to go on: {shlex.join([sys.orig_argv[0], *sys.argv, *flag])}"])


def say(text: object) -> None:
    """Print a text for people on standard error, without passwords and without what would steer their terminal."""
    given = (argument for argument in sys.argv if "://" in argument)
    print(printable(scrubbed(text, *given)), file=sys.stderr)  # noqa: T201 - the job's last words


def _cause(error: BaseException) -> BaseException:
    """Return what went wrong where it did; Ray wraps it on its way here."""
    if "ray" not in sys.modules:
        return error
    from crysatom.cluster.failures import cause

    return cause(error)


def _is_expected(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    broken_install = isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("crysatom")
    return package in SERVICES or broken_install or (isinstance(error, EXPECTED) and not isinstance(error, BUGS))


def _sentence(error: BaseException) -> str:
    """Return what an error says; what it is called where that says nothing by itself."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; is {sys.executable} the Python that crysatom was installed for?"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, EXPECTED) and str(error) and not isinstance(error, BUGS):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")
