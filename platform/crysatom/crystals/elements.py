"""Convert element symbols to atomic numbers, strictly: unknown symbols are rejected, not guessed."""

from __future__ import annotations

from crysatom.crystals.quarantine import Reason, Rejection
from crysatom.names import SYMBOLS

ATOMIC_NUMBER: dict[str, int] = {symbol: z for z, symbol in enumerate(SYMBOLS, start=1)} | {"D": 1, "T": 1}
"""Deuterium and tritium are hydrogen: they differ in mass only, and a crystal graph has no masses."""


def atomic_number(symbol: str) -> int:
    """Return the atomic number of an element symbol.

    Raises:
        Rejection: ``unknown_species`` for anything but a symbol from H to Og, D or T.

    """
    try:
        return ATOMIC_NUMBER[symbol]
    except (KeyError, TypeError):
        message = (
            f"{symbol!r} is no element; leave out dummy atoms and vacancies, and write elements by "
            "symbol (H to Og, D, T)"
        )
        raise Rejection(Reason.UNKNOWN_SPECIES, message) from None
