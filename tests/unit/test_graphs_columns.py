"""Arrow list columns as flat arrays, in every form of Arrow columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crysatom.graphs.columns import flat_values, list_array, list_lengths

LISTS = [[1, 2], [], [3], [4, 5, 6]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(LISTS),
        pa.array([[9], *LISTS, [9, 9]]).slice(1, 4),
        pa.chunked_array([pa.array(LISTS[:1]), pa.array([[7], *LISTS[1:]]).slice(1)]),
        pa.array(LISTS, pa.large_list(pa.int64())),
    ],
)
def test_values_and_lengths(column: pa.Array) -> None:
    np.testing.assert_array_equal(flat_values(column), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(list_lengths(column), [2, 0, 1, 3])


def test_fixed_size_and_missing_lists() -> None:
    fixed = pa.array([[0.0] * 3, [1.0, 2.0, 3.0], None], pa.list_(pa.float64(), 3))
    np.testing.assert_array_equal(flat_values(fixed.slice(1, 1)), [1, 2, 3])
    np.testing.assert_array_equal(list_lengths(fixed), [3, 3, -1])


def test_no_chunks() -> None:
    empty = pa.chunked_array([], type=pa.list_(pa.uint16()))
    assert flat_values(empty).dtype == np.uint16
    assert len(list_lengths(empty)) == 0


def test_round_trip() -> None:
    array = list_array(np.arange(6, dtype=np.uint16), np.array([2, 0, 4]))
    assert array.to_pylist() == [[0, 1], [], [2, 3, 4, 5]]
    assert array.type == pa.list_(pa.uint16())
