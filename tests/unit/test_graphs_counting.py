"""Counts without a wait for the device equal torch's."""

from __future__ import annotations

import pytest
import torch

from crysatom.graphs.counting import count, scattered


@pytest.mark.parametrize("weights", [None, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("number", [0, 1, 1000])
def test_adding_in_place_counts_as_bincount_does(number: int, weights: torch.dtype | None) -> None:
    index = torch.randint(0, 40, (number,))
    # Sums of integers are exact in any order.
    given = None if weights is None else torch.randint(0, 9, (number,)).to(weights)
    expected = torch.bincount(index, given, minlength=50)
    for found in (count(index, 50, given), scattered(index, 50, given)):
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype or not number, "bincount of nothing ignores the weights"
