"""What must not be shown or kept: passwords in URIs, and keys and tokens of the environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, unquote

HIDDEN = "..."
MIN_LENGTH, MIN_LENGTH_ALONE = 4, 8
"""Of a URI's secrets, and of others, that are looked for in texts; shorter ones would be found in any word."""

_FIELD = re.compile(r"key|token|password|passwd|pwd|secret|odbc_connect", re.IGNORECASE)
"""How fields of a URI are called whose values are secrets."""

_VARIABLE = re.compile(r"(.*_)?(KEY|TOKEN|PASS|SECRET)|.*PASSWORD|.+_PWD", re.IGNORECASE)
"""How variables of the environment are called whose values are secrets, and not where one is."""

_URI = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)

_SHOWN = (
    "warning: a URI on the command line holds a password, which others on this machine can read (ps) and, if the job "
    "was submitted, others on the cluster (ray job list). Set MLFLOW_TRACKING_URI instead, or MLFLOW_TRACKING_USERNAME "
    "and MLFLOW_TRACKING_PASSWORD"
)


def without_password(uri: str) -> str:
    """Return a URI as it may be shown and kept: with dots for user name and password, and for what follows a ``?``.

    A password may hold any character, as databases' own URIs allow: all before the last ``@`` is taken to be one.
    """
    scheme, colon, rest = uri.partition("://")
    if not colon or (scheme.startswith("sqlite") and rest.startswith("/")):  # a file, which has no password
        return uri
    place = rest if rest.startswith("/") else f"{HIDDEN}@{rest.rpartition('@')[2]}" if "@" in rest else rest
    place, mark, _ = place.partition("?")
    return f"{scheme}://{place}{mark and mark + HIDDEN}"


def scrubbed(text: object, *uris: str) -> str:
    """Return a text of others, an exception's for example, without the secrets of URIs and of the environment."""
    shown = str(text)
    for uri in uris:
        shown = shown.replace(uri, without_password(uri))
    found = {secret for uri in (*uris, *_environment()) for secret in _secrets(uri)}
    for secret in sorted(found, key=len, reverse=True):
        shown = shown.replace(secret, HIDDEN)
    return shown


def warn_of_passwords(arguments: Sequence[str]) -> None:
    """Warn, on standard error, of URIs with a password on a command line, which others can read.

    Args:
        arguments: Of the command line.

    """
    if any("://" in argument and _secrets(argument) for argument in arguments):
        print(_SHOWN, file=sys.stderr)  # noqa: T201 - before there is a log


def _environment() -> Iterable[str]:
    """Return values of the environment that are secrets, or URIs that may hold one."""
    for name, value in os.environ.items():
        if _URI.fullmatch(value) or _VARIABLE.fullmatch(name):
            yield value


def _secrets(value: str) -> set[str]:
    """Return what is secret in a URI, in the forms in which it may be quoted; all of a value that is none."""
    scheme, colon, rest = value.partition("://")
    if not colon:
        return {value} if len(value) >= MIN_LENGTH_ALONE else set()
    user, _, place = rest.rpartition("@") if not rest.startswith("/") else ("", "", rest)
    password = user.partition(":")[2]
    if not password and not scheme.startswith("http"):  # where it may be a token
        user = ""
    fields = [field for name, field in parse_qsl(place.partition("?")[2]) if _FIELD.search(name)]
    raw = [
        part.partition("=")[2] for part in place.partition("?")[2].split("&") if _FIELD.search(part.partition("=")[0])
    ]
    return {form for form in (user, password, unquote(password), *fields, *raw) if len(form) >= MIN_LENGTH}
