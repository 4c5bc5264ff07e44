"""Parquet files of others are believed to hold numbers and text; what would be unpickled when it is read is refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

EXTENSION = b"ARROW:extension:name"
"""Where Arrow notes in a file that a column is of an extension type."""

HARMLESS = frozenset({"arrow.bool8", "arrow.json", "arrow.uuid"})
"""Arrow's own types of single values, whose readers are not Python code."""


def require_plain(schema: pa.Schema, path: str | Path) -> None:
    """Raise if reading a column of a file might run code from it.

    Libraries may register extension types whose values are unpickled as they are read: Ray Data does, in every process
    that imports it (``ray.data.arrow_pickled_object``). Such a column is refused whether or not the type is known to
    this process, so that a file is judged alike everywhere.

    Args:
        schema: Of the file.
        path: Of the file, for the message.

    Raises:
        ValueError: Naming the first such column and its type.

    """
    for field in schema:
        if name := _extension(field):
            raise ValueError(
                f"{path}: column {field.name} is of the extension type {name}, which may hold pickled objects; those "
                "are not read, since reading one runs whatever code is in it. Write the column as numbers or text"
            )


def _extension(field: pa.Field) -> str:
    """Return the name of an extension type that a column has or holds; empty: none that could run code."""
    dtype = field.type
    if isinstance(dtype, pa.BaseExtensionType):
        own, inner = str(dtype.extension_name), [pa.field(field.name, dtype.storage_type)]
    elif pa.types.is_dictionary(dtype):  # which has no fields
        own, inner = "", [pa.field(field.name, dtype.value_type)]
    else:
        own, inner = "", [dtype.field(i) for i in range(dtype.num_fields)]
    own = own or (field.metadata or {}).get(EXTENSION, b"").decode(errors="replace")
    if own and own not in HARMLESS:
        return own
    return next(filter(None, map(_extension, inner)), "")
