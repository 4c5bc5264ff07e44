"""Python files that each define one thing, a search space or a study: the platform's own, or a user's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def load_defined(name: str, folder: Path, *, what: str, function: str, kind: type[T]) -> T:
    """Run a Python file and return what a function of it returns.

    Args:
        name: Name of a file in the folder, without ``.py``; or the path of any ``.py`` file.
        folder: Files that come with the platform.
        what: The thing defined, for messages.
        function: Name of the function; it takes no arguments.
        kind: Type that the function must return.

    Raises:
        ValueError: If there is no such file, it raises, or the function returns something else.

    """
    path = Path(name).expanduser() if name.endswith(".py") else folder / f"{name}.py"
    if not path.is_file() or path.name == "__init__.py":
        known = ", ".join(defined_in(folder))
        raise ValueError(f"no {what} {name!r}; choose among {known}, or give the path of a .py file")
    spec = importlib.util.spec_from_file_location(f"crysatom_{function}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
        made = getattr(module, function)()
    except Exception as error:  # whatever the user's file raises
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(made, kind):
        raise ValueError(  # noqa: TRY004 - a user's mistake
            f"{path}: {function}() must return a {kind.__name__}, got {type(made).__name__}"
        )
    return made


def defined_in(folder: Path) -> list[str]:
    """Return the names that a folder's files can be loaded by."""
    return sorted(file.stem for file in folder.glob("[!_]*.py"))
