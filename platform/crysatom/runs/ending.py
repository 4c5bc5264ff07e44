"""How a job ends: its last message, and its exit code."""

from __future__ import annotations

import shlex
import signal
import sys
import traceback

from crysatom.config.secrets import scrubbed
from crysatom.config.terminal import printable

FAILED, BUG = 1, 70
INTERRUPTED, UNREAD = 128 + signal.SIGINT, 128 + signal.SIGPIPE
"""Exit codes, as in docs/reliability.md; 70 is EX_SOFTWARE of sysexits.h."""

EXPECTED = (ValueError, OSError, RuntimeError, MemoryError)
"""What users, files, disks and networks can cause; any other exception of a job is a bug."""

BUGS = (NotImplementedError, RecursionError)
"""Subclasses of the above that are bugs nevertheless."""

SERVICES = frozenset({"ray", "mlflow", "sqlalchemy", "grpc", "urllib3"})
"""Packages that raise errors of their own when a service is unreachable or refuses."""

RESUME = "--resume"


def report_error(error: BaseException, *, debug: bool = False) -> int:
    """Print why a job ended, in one line on standard error; return its exit code.

    Args:
        error: Exception that ended it; may be SystemExit.
        debug: Whether to show the traceback of every error, not only of bugs.

    """
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print_message(error.code)
        return FAILED
    cause = _cause(error)
    bug = not _is_expected(cause)
    if debug or bug:
        print_message("".join(traceback.format_exception(error)).rstrip())
    sentence = "; ".join(line.strip() for line in _sentence(cause).splitlines() if line.strip())
    if bug:
        sentence = f"this is a bug of crysatom ({sentence}); please report it to its maintainers, with the lines above"
    print_message(f"error: {sentence}")
    return BUG if bug else FAILED


def resume_hint(error: BaseException, kept: str, *, resumes: bool) -> str:
    """Return what to show a user who pressed Ctrl-C: what is kept, and how to continue.

    Args:
        error: Exception that the signal became; its notes name folder and checkpoint.
        kept: What is kept of the job's work.
        resumes: Whether ``--resume`` continues from there.

    """
    flag = [RESUME] if resumes and RESUME not in sys.argv else []
    lines = ["", f"interrupted; kept: {kept}", *getattr(error, "__notes__", ())]
    return "\n".join([*lines, f"to continue: {shlex.join([sys.orig_argv[0], *sys.argv, *flag])}"])


def print_message(text: object) -> None:
    """Print a text on standard error, without passwords and without terminal control characters."""
    given = (argument for argument in sys.argv if "://" in argument)
    print(printable(scrubbed(text, *given)), file=sys.stderr)  # noqa: T201 - the job's last words


def _cause(error: BaseException) -> BaseException:
    """Return the original exception, which Ray may have wrapped."""
    if "ray" not in sys.modules:
        return error
    from crysatom.cluster.failures import cause

    return cause(error)


def _is_expected(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    broken_install = isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("crysatom")
    return package in SERVICES or broken_install or (isinstance(error, EXPECTED) and not isinstance(error, BUGS))


def _sentence(error: BaseException) -> str:
    """Return the message of an error, with its class if the message alone is unclear."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; is {sys.executable} the Python that crysatom was installed for?"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, EXPECTED) and str(error) and not isinstance(error, BUGS):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")
