"""Pseudo-random numbers from counters, the same on every device."""

from __future__ import annotations

from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift right without sign extension; torch has no such shift for int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _wrapped(number: int) -> int:
    """Return an integer as int64 holds it; Python's do not overflow."""
    return (number + 2**63) % 2**64 - 2**63


def mix(state: Tensor, counter: Tensor | int) -> Tensor:
    """Return pseudo-random int64 for each state and counter (SplitMix64; Steele, Lea & Flood, OOPSLA 2014)."""
    step = (counter + 1) * _GOLDEN
    z = state + (_wrapped(step) if isinstance(step, int) else step)
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)
