"""Convert Arrow list columns to and from flat arrays, without a Python object per row."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Array = NDArray[Any]
Column: TypeAlias = Any
"""pyarrow.Array or pyarrow.ChunkedArray; pyarrow has no type stubs."""


def flat_values(column: Column) -> Array:
    """Return the concatenated lists of a list column, sliced or chunked; zero-copy if possible."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    if len(values) == 1:
        return np.asarray(values[0])
    return np.concatenate(values) if values else column.type.value_type.to_pandas_dtype()([])


def list_lengths(column: Column) -> Array:
    """Return ``(B,)`` int64 lengths of the lists of a column; a missing list has length -1."""
    lengths = pc.fill_null(pc.list_value_length(column).cast(pa.int64()), -1)
    return np.asarray(lengths.to_numpy(zero_copy_only=False) if isinstance(lengths, pa.Array) else lengths.to_numpy())


def list_array(values: Array, lengths: Array) -> pa.ListArray:
    """Build a list column from concatenated values and the ``(B,)`` lengths of its rows."""
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ends[1:])
    return pa.ListArray.from_arrays(pa.array(ends, type=pa.int32()), pa.array(np.ascontiguousarray(values).ravel()))
