"""Reject columns of foreign Parquet files that would be unpickled on reading; only numbers and text are allowed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

EXTENSION = b"ARROW:extension:name"
"""Metadata key of the extension type of a column in an Arrow file."""

HARMLESS = frozenset({"arrow.bool8", "arrow.json", "arrow.uuid"})
"""Arrow's own types of single values, whose readers are not Python code."""


def require_plain(schema: pa.Schema, path: str | Path) -> None:
    """Raise if reading a column of a file might run code from it.

    Libraries may register extension types whose values are unpickled on reading: Ray Data does, in every process that
    imports it (``ray.data.arrow_pickled_object``). Such a column is rejected whether or not this process knows the
    type, so that all processes treat a file alike.

    Args:
        schema: Schema of the file.
        path: The file, for the message.

    Raises:
        ValueError: With the first such column and its type.

    """
    for field in schema:
        if name := _extension(field):
            raise ValueError(
                f"{path}: column {field.name} is of the extension type {name}, which may hold pickled objects; those "
                "are not read, since reading one runs whatever code is in it. Write the column as numbers or text"
            )


def _extension(field: pa.Field) -> str:
    """Return the extension type that a column has or contains; empty if none could run code."""
    dtype = field.type
    if isinstance(dtype, pa.BaseExtensionType):
        own, inner = str(dtype.extension_name), [pa.field(field.name, dtype.storage_type)]
    elif pa.types.is_dictionary(dtype):  # a dictionary has no fields
        own, inner = "", [pa.field(field.name, dtype.value_type)]
    else:
        own, inner = "", [dtype.field(i) for i in range(dtype.num_fields)]
    own = own or (field.metadata or {}).get(EXTENSION, b"").decode(errors="replace")
    if own and own not in HARMLESS:
        return own
    return next(filter(None, map(_extension, inner)), "")
