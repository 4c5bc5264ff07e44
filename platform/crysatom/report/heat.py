"""Periodic tables of the page: a value, a shade and a tooltip for each element."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from crysatom.names import MAX_ATOMIC_NUMBER, SYMBOLS
from crysatom.vectors.elements import element_table


class Cell(NamedTuple):
    """An element: row and column of the page's grid, shade in [-1, 1] (None: no value), tooltip."""

    symbol: str
    row: int
    column: int
    shade: float | None
    tooltip: str


@dataclass(frozen=True, kw_only=True)
class Heat:
    """Values by element.

    Attributes:
        title: Caption.
        unit: Unit of the values.
        values: Value by atomic number.
        notes: Text after the value in the tooltip, by atomic number.
        log: Color by the logarithm.
        signed: Color positive and negative values differently.

    """

    title: str
    unit: str
    values: Mapping[int, float]
    notes: Mapping[int, str] = field(default_factory=dict)
    log: bool = False
    signed: bool = False

    def shades(self) -> dict[int, float]:
        """Return shades in [-1, 1], by atomic number."""
        if not self.values:
            return {}
        values = {z: math.log1p(value) if self.log else value for z, value in self.values.items()}
        low, high = (
            (0.0, max(map(abs, values.values()))) if self.signed else (min(values.values()), max(values.values()))
        )
        return {z: (value - low) / (high - low) if high > low else 0.5 for z, value in values.items()}

    def cells(self) -> Iterator[Cell]:
        """Yield all elements; the f block has two rows of its own, below an empty row."""
        shades = self.shades()
        for z, symbol in enumerate(SYMBOLS[:MAX_ATOMIC_NUMBER], start=1):
            facts = element_table()[z]
            period, f_column = int(facts["period"]), facts["f_column"]
            row, column = (period + 3, int(f_column) + 2) if f_column else (period, int(facts["group"]))
            text = "no value"
            if z in shades:
                text = f"{number(self.values[z])} {self.unit}".rstrip() + self.notes.get(z, "")
            yield Cell(symbol, row, column, shades.get(z), f"{symbol}: {text}")


def four(value: float) -> str:
    """Return a measured number with four digits, including trailing zeros."""
    return f"{value:#.4g}".removesuffix(".")


def number(value: float) -> str:
    """Return a count with thousands separators, any other number with four digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else four(value)
