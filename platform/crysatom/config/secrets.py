"""Secrets that must not be shown or stored: passwords in URIs, and keys and tokens of the environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, unquote

HIDDEN = "..."
MIN_LENGTH, MIN_LENGTH_ALONE = 4, 8
"""Shortest secret that is searched for in texts; shorter ones would match parts of words."""

_FIELD = re.compile(r"key|token|password|passwd|pwd|secret|odbc_connect", re.IGNORECASE)
"""Names of URI fields whose values are secrets."""

_VARIABLE = re.compile(r"(.*_)?(KEY|TOKEN|PASS|SECRET)|.*PASSWORD|.+_PWD", re.IGNORECASE)
"""Names of environment variables whose values are secrets, and not paths to one."""

_URI = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)

_SHOWN = (
    "warning: a URI on the command line holds a password, which others on this machine can read (ps) and, if the job "
    "was submitted, others on the cluster (ray job list). Set MLFLOW_TRACKING_URI instead, or MLFLOW_TRACKING_USERNAME "
    "and MLFLOW_TRACKING_PASSWORD"
)


def without_password(uri: str) -> str:
    """Return a URI that can be shown and stored: with dots for user name, password, and everything after a ``?``.

    A password may contain any character, as in database URIs: everything before the last ``@`` counts as credentials.
    """
    scheme, colon, rest = uri.partition("://")
    if not colon or (scheme.startswith("sqlite") and rest.startswith("/")):  # a file has no password
        return uri
    place = rest if rest.startswith("/") else f"{HIDDEN}@{rest.rpartition('@')[2]}" if "@" in rest else rest
    place, mark, _ = place.partition("?")
    return f"{scheme}://{place}{mark and mark + HIDDEN}"


def scrubbed(text: object, *uris: str) -> str:
    """Return a foreign text, such as an exception's, without secrets of URIs and of the environment."""
    shown = str(text)
    for uri in uris:
        shown = shown.replace(uri, without_password(uri))
    found = {secret for uri in (*uris, *_environment()) for secret in _secrets(uri)}
    for secret in sorted(found, key=len, reverse=True):
        shown = shown.replace(secret, HIDDEN)
    return shown


def warn_of_passwords(arguments: Sequence[str]) -> None:
    """Warn on standard error about URIs with a password on a command line, which others can read.

    Args:
        arguments: Command-line arguments.

    """
    if any("://" in argument and _secrets(argument) for argument in arguments):
        print(_SHOWN, file=sys.stderr)  # noqa: T201 - before there is a log


def _environment() -> Iterable[str]:
    """Return environment values that are secrets, or URIs that may contain one."""
    for name, value in os.environ.items():
        if _URI.fullmatch(value) or _VARIABLE.fullmatch(name):
            yield value


def _secrets(value: str) -> set[str]:
    """Return the secrets in a URI, in all quoted forms; the whole value if it is not a URI."""
    scheme, colon, rest = value.partition("://")
    if not colon:
        return {value} if len(value) >= MIN_LENGTH_ALONE else set()
    user, _, place = rest.rpartition("@") if not rest.startswith("/") else ("", "", rest)
    password = user.partition(":")[2]
    if not password and not scheme.startswith("http"):  # the user name may be a token
        user = ""
    fields = [field for name, field in parse_qsl(place.partition("?")[2]) if _FIELD.search(name)]
    raw = [
        part.partition("=")[2] for part in place.partition("?")[2].split("&") if _FIELD.search(part.partition("=")[0])
    ]
    return {form for form in (user, password, unquote(password), *fields, *raw) if len(form) >= MIN_LENGTH}
