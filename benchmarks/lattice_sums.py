"""Accuracy and speed of lattice sums: compared with sums over images and with pymatgen's Ewald sums.

Accuracy is measured on the crystals with the most skewed cells, and on random ones.

- Pauli: the reference sums images up to 12 angstrom.
- London: the reference sums images inside a smooth window and integrates outside. It has no sum over wave vectors, and
  its window is not a parameter of our code.
- Coulomb: only differences are meaningful. The reference is the energy of charges +1 and -1 on two atoms, for every
  pair.

Two atoms 10 angstrom apart have a Pauli sum of 1e-13, for which an absolute error of 1e-15 is large. Errors are
therefore relative to the larger of the sum and a scale: the mean over the cell (Pauli), V^-2 (London). Errors relative
to the sum alone are reported separately.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from statistics import median
from typing import Any

import bench
import numpy as np
from bench import Benchmark, Run, Setting, timed
from numpy.typing import NDArray
from pymatgen.analysis.ewald import EwaldSummation
from pymatgen.core import Lattice, Structure
from samples import sample
from scipy import constants
from scipy.special import erfc

from crysatom.crystals.table import read_table
from crysatom.graphs.lattices import skewness
from crysatom.graphs.potentials import coulomb_sums, london_sums, pair_potentials, pauli_sums

COULOMB_EV = constants.e / (4e-10 * np.pi * constants.epsilon_0)
"""Energy of two unit charges one angstrom apart, in eV."""

PAULI_REACH = 12.0
WINDOW = (120.0, 24.0)
"""Center and width of the window of the London reference, in angstrom."""

LARGEST_ERROR = {"pauli": 1e-11, "pauli_of_tiny_sums_too": 0.1, "london": 1e-7, "coulomb": 1e-12}
"""Errors beyond these are errors of the code; those of London's sum are its reference's."""

Array = NDArray[Any]


def distances(lattice: Array, frac_coords: Array, reach: float) -> Iterator[tuple[int, int, Array]]:
    """Yield each pair of atoms with the distances of all images within a reach, and of some farther ones."""
    counts = np.ceil(reach * np.linalg.norm(np.linalg.inv(lattice), axis=0) + 1).astype(int)
    axes = [np.arange(-n, n + 1) for n in counts]
    images = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ lattice
    images = images[np.linalg.norm(images, axis=1) < reach + np.linalg.norm(lattice, axis=1).sum()]
    wrapped = frac_coords % 1.0
    for i in range(len(wrapped)):
        for j in range(i + 1):
            yield i, j, np.linalg.norm((wrapped[i] - wrapped[j]) @ lattice + images, axis=1)


def window(r: Array) -> Array:
    """Return the window: 1 at small distances, 0 at large ones."""
    values: Array = erfc((r - WINDOW[0]) / WINDOW[1]) / 2
    return values


def deviation(found: Array, pairs: dict[tuple[int, int], float], scale: float) -> dict[str, float]:
    """Return the largest deviations, relative to the larger of sum and scale, and relative to the sum alone."""
    differences = {pair: abs(float(found[pair]) - expected) for pair, expected in pairs.items()}
    return {
        "": max(differences[pair] / max(expected, scale) for pair, expected in pairs.items()),
        "_of_tiny_sums_too": max(differences[pair] / expected for pair, expected in pairs.items()),
    }


def errors_of(lattice: Array, frac_coords: Array) -> dict[str, float]:
    """Return the largest relative errors of one crystal."""
    volume = abs(np.linalg.det(lattice))
    pauli = {
        (i, j): float(np.exp(-3 * r[r < PAULI_REACH]).sum()) for i, j, r in distances(lattice, frac_coords, PAULI_REACH)
    }
    outside = np.linspace(0.5, 4000, 2_000_001)
    integral = np.trapezoid((1 - window(outside)) * outside**-4.0, outside) + outside[-1] ** -3.0 / 3
    london = {
        (i, j): float((window(r) * np.where(r > 1e-6, r, np.inf) ** -6).sum() + 4 * np.pi / volume * integral)
        for i, j, r in distances(lattice, frac_coords, WINDOW[0] + 4 * WINDOW[1])
    }
    errors = {
        name + which: value
        for name, found, pairs, scale in (
            ("pauli", pauli_sums(lattice, frac_coords), pauli, 8 * np.pi / 27 / volume),
            ("london", london_sums(lattice, frac_coords), london, volume**-2),
        )
        for which, value in deviation(found, pairs, float(scale)).items()
    }
    if len(frac_coords) > 1:
        errors["coulomb"] = coulomb_error(lattice, frac_coords)
    return errors


def coulomb_error(lattice: Array, frac_coords: Array) -> float:
    """Return the largest error of the energies of two opposite charges, relative to the largest energy."""
    cell = Structure(Lattice(lattice), ["H"] * len(frac_coords), frac_coords, charge=None)
    cell.add_oxidation_state_by_site([1.0] * len(frac_coords))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warning about a charged cell: differences do not depend on the background
        matrix = EwaldSummation(cell, acc_factor=20).total_energy_matrix  # type: ignore[no-untyped-call]
    ours = coulomb_sums(lattice, frac_coords) * COULOMB_EV / 2
    theirs, found = (np.diag(m)[:, None] + np.diag(m) - m - m.T for m in (matrix, ours))
    return float(np.abs(found - theirs).max() / np.abs(theirs).max())


def measure(run: Run) -> None:
    """Measure accuracy and speed."""
    s = run.settings
    table = read_table(sample(run.table, s.crystals, run.folder / "crystals.parquet"))
    lattices = np.array(table["lattice"].to_pylist(), dtype=np.float64).reshape(-1, 3, 3)
    atoms = np.array([len(z) for z in table["atomic_numbers"].to_pylist()])
    rng = np.random.default_rng(0)
    small = np.flatnonzero(atoms <= s.max_atoms)
    skewed = small[np.argsort(-skewness(lattices[small]))[: s.skewed]]
    others = rng.choice(np.setdiff1d(small, skewed), s.random, replace=False)

    def crystal(row: int) -> tuple[Array, Array]:
        return lattices[row], np.array(table["frac_coords"][row].as_py(), dtype=np.float64).reshape(-1, 3)

    errors = [errors_of(*crystal(row)) for row in np.concatenate([skewed, others]).tolist()]
    run.check("crystals checked = asked for", len(errors) == s.skewed + s.random, f"{len(errors)}")
    for name, allowed in LARGEST_ERROR.items():
        values = [e[name] for e in errors if name in e]
        largest = max(values)
        run.check(f"{name}: error at most {allowed:g}", largest <= allowed, f"{largest:.1e}", found=f"{largest:.1e}")
        run.facts[f"{name}, relative error, largest and median"] = [f"{x:.1e}" for x in (largest, median(values))]
    run.facts["largest skewness"] = float(skewness(lattices[skewed]).max())
    chosen = [crystal(row) for row in rng.choice(len(table), s.timed, replace=False).tolist()]
    timings = [timed(len(chosen), lambda: [pair_potentials(*one) for one in chosen])[0] for _ in range(s.rounds)]
    run.timings("all sums of a crystal", timings)
    run.facts["mean atoms of these crystals"] = float(np.mean([len(f) for _, f in chosen]))


BENCHMARK = Benchmark(
    name="lattice_sums",
    about=str(__doc__),
    measures=("graphs/potentials.py", "graphs/lattices.py"),
    settings={
        "crystals": Setting(20_000, 100, "crystals to choose from"),
        "skewed": Setting(30, 2, "crystals with the most skewed cells"),
        "random": Setting(30, 2, "other crystals"),
        "max_atoms": Setting(10, 3, "largest crystal whose errors are measured: sums over images are slow"),
        "timed": Setting(1024, 20, "crystals whose sums are timed"),
        "rounds": Setting(3, 1),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
