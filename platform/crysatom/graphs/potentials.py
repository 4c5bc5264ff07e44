r"""Sums of interatomic potentials over all periodic images, for each pair of atoms of a crystal.

Lin, Yan, Luo, Liu, Qian & Ji, "Efficient Approximations of Complete Interatomic Potentials for Crystal Property
Prediction" (PotNet), ICML 2023, arXiv 2306.10045. With v the vector from atom j to atom i, and R all lattice vectors,

    Coulomb  S1 = sum 1 / \|R + v\|             terms of zero length left out
    London   S2 = sum 1 / \|R + v\|^6           terms of zero length left out
    Pauli    S3 = sum exp(-3 \|R + v\|)

lengths in angstrom; a pair's potential is -0.801 S1 - 0.074 S2 + 0.145 S3.

S1 diverges. Its value is defined by Epstein's zeta function, continued to the power 1/2 (P. Epstein, Math. Ann. 56, 615
(1903)); in other words that of unit charges in a uniform background that makes the cell neutral.

Each sum is evaluated as P. P. Ewald did (Ann. Phys. 369, 253 (1921)). Every one of these functions is a mixture of
Gaussians, f(r) = int_0^inf w(t) exp(-t r^2) dt. Sharp Gaussians, t > eta^2, are summed over lattice vectors, wide
ones over wave vectors G of the reciprocal lattice by Poisson's formula, sum_R exp(-t |R + v|^2) = (pi / t)^(3/2) / V
sum_G exp(-G^2 / 4t) cos(G v). Both sums converge like Gaussians, and their sum does not depend on eta. A
:class:`Kernel` has the two integrals over w, all of them in closed form.

Accuracy: eta and the cutoffs of both sums are functions of the cell's volume V alone, and images are counted in a
reduced cell, so the shape of the cell and the position of a site do not matter. The truncation error is less than 1e-10
of V^(-1/3) for S1, of V^(-2) for S2 and of the mean of S3 over the cell, 8 pi / (27 V).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, erfcx

from crysatom.graphs.lattices import reduce_lattice

Array = NDArray[Any]
Decay = Literal["exact", "paper"]

COULOMB, LONDON, PAULI = -0.801, -0.074, 0.145
"""Published weights of the three sums."""

DECAY = 3.0
"""Decay rate of Pauli's repulsion, in 1/angstrom."""

REACH = 5.7
"""Both sums end where their Gaussians have fallen to exp(-REACH^2), 8e-15."""

RADIUS = 1.3
"""Largest length in the sum over lattice vectors, in units of V^(1/3); a larger value shortens the other sum."""

COINCIDENT = 1e-6
"""Lengths below this are zero, in angstrom: coordinates are not more precise."""

_BLOCK = 2**17  # pairs x images processed at once: bounds memory and fits in the CPU cache
_WAVES = 2**22  # atoms x waves processed at once: bounds memory; more than any usual crystal has


class Kernel(NamedTuple):
    """A function of the distance, split into two parts.

    Attributes:
        near: The sharp part at lengths r, ``(n,)``; at zero, minus the wide part if the sum omits that term.
        far: Fourier transform of the wide part at squared wave numbers G^2, ``(m,)``, in 1/angstrom^2.

    """

    near: Callable[[Array], Array]
    far: Callable[[Array], Array]


def pair_potentials(lattice: Array, frac_coords: Array, decay: Decay = "exact") -> Array:
    """Return the potential of each pair of a crystal's atoms, including each atom with its own images.

    Args:
        lattice: ``(3, 3)``, rows a, b, c in angstrom, either handedness.
        frac_coords: ``(N, 3)``, not necessarily wrapped to [0, 1).
        decay: Decay of Pauli's repulsion, see :func:`pauli_sums`.

    Returns:
        ``(N, N)`` float64, symmetric.

    Raises:
        ValueError: If the lattice has no volume, a number is not finite, or the decay is unknown.

    """
    rate = decay_rate(lattice, decay)

    def kernel(eta: float) -> Kernel:
        parts = ((COULOMB, coulomb(eta)), (LONDON, london(eta)), (PAULI, pauli(eta, rate)))
        return Kernel(
            lambda r: np.sum([weight * part.near(r) for weight, part in parts], axis=0),
            lambda squares: np.sum([weight * part.far(squares) for weight, part in parts], axis=0),
        )

    return lattice_sums(lattice, frac_coords, kernel)


def coulomb_sums(lattice: Array, frac_coords: Array) -> Array:
    """Return S1 of each pair, ``(N, N)``, in 1/angstrom; the mean over all vectors v of a cell is zero.

    A crystal of charges q_i that sum to zero has the energy ``q @ S1 @ q / 2``, assuming conducting surroundings.

    Args:
        lattice: ``(3, 3)``, rows a, b, c in angstrom.
        frac_coords: ``(N, 3)``.

    Raises:
        ValueError: See :func:`pair_potentials`.

    """
    return lattice_sums(lattice, frac_coords, coulomb)


def london_sums(lattice: Array, frac_coords: Array) -> Array:
    """Return S2 of each pair, ``(N, N)``, in 1/angstrom^6.

    Args:
        lattice: ``(3, 3)``, rows a, b, c in angstrom.
        frac_coords: ``(N, 3)``.

    Raises:
        ValueError: See :func:`pair_potentials`.

    """
    return lattice_sums(lattice, frac_coords, london)


def pauli_sums(lattice: Array, frac_coords: Array, decay: Decay = "exact") -> Array:
    """Return S3 of each pair, ``(N, N)``.

    Args:
        lattice: ``(3, 3)``, rows a, b, c in angstrom.
        frac_coords: ``(N, 3)``.
        decay: ``exact`` is exp(-3 r). ``paper`` is what the released code computes and the paper's results use: it
            measures lengths in units of g = V^(1/3) but divides the decay by sqrt(g), so it sums
            exp(-3 r / sqrt(g)), g in angstrom: the decay is slower in larger cells of the same material.

    Raises:
        ValueError: See :func:`pair_potentials`.

    """
    rate = decay_rate(lattice, decay)
    return lattice_sums(lattice, frac_coords, lambda eta: pauli(eta, rate))


def decay_rate(lattice: Array, decay: Decay) -> float:
    """Return the decay of Pauli's repulsion in a cell, in 1/angstrom.

    Raises:
        ValueError: If it is neither ``exact`` nor ``paper``, or the lattice has no volume.

    """
    if decay == "exact":
        return DECAY
    if decay == "paper":
        return float(DECAY * _volume(np.asarray(lattice, dtype=np.float64)) ** (-1 / 6))
    raise ValueError(f"unknown decay {decay!r}; choose 'exact' or 'paper'")


def coulomb(eta: float) -> Kernel:
    """Return the kernel of 1/r: w(t) = 1 / sqrt(pi t).

    Near: erfc(eta r) / r. Far: 4 pi / G^2 exp(-G^2 / 4 eta^2); at G = 0, without the divergent 4 pi / G^2.
    """

    def near(r: Array) -> Array:
        return _unless_zero(r, lambda r: erfc(eta * r) / r, -2 * eta / np.sqrt(np.pi))

    def far(squares: Array) -> Array:
        return _unless_zero(
            squares, lambda squares: 4 * np.pi / squares * np.exp(-squares / (4 * eta**2)), -np.pi / eta**2
        )

    return Kernel(near, far)


def london(eta: float) -> Kernel:
    """Return the kernel of 1/r^6: w(t) = t^2 / 2.

    Near: exp(-x) (1 + x + x^2 / 2) / r^6 with x = (eta r)^2. Far: pi^(3/2) eta^3 / 3 ((1 - 2 b^2) exp(-b^2) +
    2 sqrt(pi) b^3 erfc(b)) with b = G / 2 eta (D. E. Williams, Acta Cryst. A 27, 452 (1971)).
    """

    def sharp(r: Array) -> Array:
        x = (eta * r) ** 2
        found: Array = np.exp(-x) * (1 + x + x * x / 2) / r**6
        return found

    def far(squares: Array) -> Array:
        b = np.sqrt(squares) / (2 * eta)
        tail = 2 * np.sqrt(np.pi) * b**3 * erfcx(b)
        found: Array = np.pi**1.5 * eta**3 / 3 * np.exp(-b * b) * (1 - 2 * b * b + tail)
        return found

    return Kernel(lambda r: _unless_zero(r, sharp, -(eta**6) / 6), far)


def pauli(eta: float, rate: float) -> Kernel:
    """Return the kernel of exp(-a r): w(t) = a / (2 sqrt(pi)) t^(-3/2) exp(-a^2 / 4t).

    Near: (exp(-a r) erfc(eta r - a / 2 eta) - exp(a r) erfc(eta r + a / 2 eta)) / 2. Far: pi a / 2 exp(-q / eta^2)
    (1 / (q eta^2) + 1 / q^2) with q = (a^2 + G^2) / 4; for large eta it tends to 8 pi a / (a^2 + G^2)^2.

    Args:
        eta: Boundary between the parts, in 1/angstrom.
        rate: a, in 1/angstrom.

    """
    shift = rate / (2 * eta)

    def near(r: Array) -> Array:
        x = eta * r
        # exp(a r) alone overflows
        rising = np.exp(-x * x - shift**2) * erfcx(x + shift)
        found: Array = (np.exp(-rate * r) * erfc(x - shift) - rising) / 2
        return found

    def far(squares: Array) -> Array:
        q = (rate**2 + squares) / 4
        found: Array = np.pi * rate / 2 * np.exp(-q / eta**2) * (1 / (q * eta**2) + 1 / q**2)
        return found

    return Kernel(near, far)


def _unless_zero(x: Array, function: Callable[[Array], Array], at_zero: float) -> Array:
    zero = x < COINCIDENT
    return np.where(zero, at_zero, function(np.where(zero, 1.0, x)))


def lattice_sums(lattice: Array, frac_coords: Array, kernel: Callable[[float], Kernel]) -> Array:
    """Return the sum over all images of a function of the distance, for each pair of atoms.

    Args:
        lattice: ``(3, 3)``, rows a, b, c in angstrom.
        frac_coords: ``(N, 3)``.
        kernel: Returns the two parts of the function for a boundary eta in 1/angstrom.

    Returns:
        ``(N, N)`` float64, symmetric.

    Raises:
        ValueError: If the lattice has no volume or a number is not finite.

    """
    lattice = np.asarray(lattice, dtype=np.float64)
    frac_coords = np.asarray(frac_coords, dtype=np.float64)
    volume = _volume(lattice)
    if not np.isfinite(frac_coords).all():
        raise ValueError("lattice sums need finite coordinates; remove crystals without them (jobs/ingest.py does)")
    transform = reduce_lattice(lattice)
    cell = transform @ lattice
    frac_coords = frac_coords @ np.linalg.inv(transform)
    radius = RADIUS * volume ** (1 / 3)
    eta = REACH / radius
    near, far = kernel(eta)
    waves = _over_waves(cell, frac_coords, far, 2 * REACH * eta) / volume

    first, second = np.triu_indices(len(frac_coords), 1)
    apart = np.concatenate([np.zeros((1, 3)), frac_coords[first] - frac_coords[second]])
    terms = _over_images(cell, apart - np.rint(apart), near, radius)
    images = np.zeros_like(waves)
    images[first, second] = images[second, first] = terms[1:]
    np.fill_diagonal(images, terms[0])
    return images + (waves + waves.T) / 2


def _volume(lattice: Array) -> float:
    volume = abs(float(np.linalg.det(lattice)))
    if not 0 < volume < np.inf:
        raise ValueError(f"lattice sums need a cell of positive volume, got {volume} angstrom^3; correct the lattice")
    return volume


def _over_images(cell: Array, apart: Array, near: Callable[[Array], Array], radius: float) -> Array:
    """Return ``(P,)`` sums of ``near`` over the images within a radius; ``apart`` is ``(P, 3)``, within +-1/2."""
    vectors = apart @ cell
    squares = np.einsum("ij,ij->i", vectors, vectors)
    # a vector of length r has a fractional component k of at most r times the length of the reciprocal vector k
    counts = np.floor(radius * np.linalg.norm(np.linalg.inv(cell), axis=0) + 0.5)
    images = _grid(*counts.astype(int).tolist()) @ cell
    lengths = np.einsum("ij,ij->i", images, images)
    close = lengths <= (radius + np.sqrt(squares.max())) ** 2
    images, lengths = images[close], lengths[close]
    totals = np.empty(len(vectors))
    size = max(1, _BLOCK // len(images))
    for start in range(0, len(vectors), size):
        part = slice(start, start + size)
        distances = 2 * vectors[part] @ images.T
        distances += squares[part, None]
        distances += lengths
        pair, image = np.divmod(np.flatnonzero(distances <= radius**2), len(images))
        # computed again without the cancellation of the expanded square
        r = np.sqrt(np.square(vectors[part][pair] + images[image]).sum(1))
        totals[part] = np.bincount(pair, near(r), minlength=len(vectors[part]))
    return totals


def _over_waves(cell: Array, frac_coords: Array, far: Callable[[Array], Array], radius: float) -> Array:
    """Return ``(N, N)`` sums of ``far(G^2) cos(G v)`` over the wave vectors within a radius."""
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    counts = np.floor(radius * np.linalg.norm(cell, axis=1) / (2 * np.pi))
    indices = _grid(*counts.astype(int).tolist())
    indices = indices[len(indices) // 2 :]  # one of G and -G, zero first
    waves = indices @ reciprocal
    squares = np.einsum("ij,ij->i", waves, waves)
    close = squares <= radius**2
    indices, weights = indices[close], 2 * far(squares[close])
    weights[0] /= 2
    wrapped = 2 * np.pi * (frac_coords - np.floor(frac_coords))
    total = np.zeros((len(frac_coords), len(frac_coords)))
    size = max(1, _WAVES // len(frac_coords))
    for start in range(0, len(weights), size):
        part = slice(start, start + size)
        phases = wrapped @ indices[part].T
        # cos(G (x - y)) = cos(G x) cos(G y) + sin(G x) sin(G y)
        cosines, sines = np.cos(phases), np.sin(phases)
        total += (weights[part] * cosines) @ cosines.T + (weights[part] * sines) @ sines.T
    return total


@functools.lru_cache(maxsize=64)
def _grid(a: int, b: int, c: int) -> Array:
    """Return all integer vectors with components within -a..a, -b..b, -c..c, float64; zero in the middle."""
    axes = (np.arange(-n, n + 1.0) for n in (a, b, c))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    grid.flags.writeable = False
    return grid
