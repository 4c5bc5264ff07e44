"""Whether the atoms of a CIF are those its formula names: missing hydrogens are the usual gap."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from pymatgen.core import Composition

from crysatom.crystals.elements import ATOMIC_NUMBER
from crysatom.crystals.quarantine import Reason, Rejection
from crysatom.names import SYMBOLS

TOLERANCE = 0.01
"""Largest difference in an element's share of atoms, absolute."""


def require_formula(formula: str | None, atomic_numbers: np.ndarray) -> None:
    """Return if the atoms have the proportions of ``_chemical_formula_sum``, or the CIF gives none to compare.

    Raises:
        Rejection: ``formula_mismatch``, naming the element.

    """
    stated = _shares(formula)
    if not stated:
        return
    present = {SYMBOLS[z - 1]: n / len(atomic_numbers) for z, n in Counter(atomic_numbers.tolist()).items()}
    for symbol in sorted(stated.keys() | present.keys()):
        if abs(stated.get(symbol, 0.0) - present.get(symbol, 0.0)) > TOLERANCE:
            message = (
                f"the formula {formula!r} has {stated.get(symbol, 0):.1%} {symbol}, the listed atoms "
                f"{present.get(symbol, 0):.1%}; "
                "add the missing sites or symmetry operations, or correct _chemical_formula_sum"
            )
            raise Rejection(Reason.FORMULA_MISMATCH, message)


def _shares(formula: str | None) -> dict[str, float]:
    """Return each element's share of the atoms; empty for a formula that cannot be read."""
    try:
        amounts = Composition(formula).get_el_amt_dict() if formula else {}
        counts: dict[str, float] = defaultdict(float)
        for symbol, amount in amounts.items():
            counts[SYMBOLS[ATOMIC_NUMBER[symbol] - 1]] += amount
    except (ValueError, KeyError, TypeError):
        return {}
    total = sum(counts.values())
    return {symbol: amount / total for symbol, amount in counts.items()} if total else {}
