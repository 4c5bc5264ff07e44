"""Element vectors by name: the values of ``--vectors`` and their tables."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crysatom.names import ELEMENT_BINS, MODELS_URI, RUNS_URI
from crysatom.vectors.controls import one_hot, permuted, random_vectors
from crysatom.vectors.elements import element_features
from crysatom.vectors.files import read_vectors
from crysatom.vectors.published import cgcnn_bits, published_names, published_vectors
from crysatom.vectors.shipped import shipped_names, shipped_vectors
from crysatom.vectors.table import AtomVectors

Fetch = Callable[[str], AtomVectors]

ONE_HOT = "onehot"
ONE_HOT_92 = "onehot92"
DEFAULT_SEED = 0
DEFAULT_DIM = 200
"""Dimension of random vectors, as in CrysAtom, SkipAtom and mat2vec."""

CHOICES = (
    f"{', '.join(shipped_names())}, {ONE_HOT}, {ONE_HOT_92}, {ELEMENT_BINS}, random:SEED[:DIM], permuted:[SEED:]NAME, "
    "a name of ElementEmbeddings (mat2vec), a vectors file, a folder written with a slash (./vectors), "
    f"{RUNS_URI}ID, or {MODELS_URI}NAME/VERSION"
)


def _element_bins() -> AtomVectors:
    features = element_features(ELEMENT_BINS)
    return AtomVectors(atomic_numbers=features.atomic_numbers, vectors=features.features)


_FIXED = {ONE_HOT: one_hot, ONE_HOT_92: cgcnn_bits, ELEMENT_BINS: _element_bins}
_RANDOM = re.compile(r"random(?::([0-9]+))?(?::([0-9]+))?")
_PERMUTED = re.compile(r"permuted:(?:([0-9]+):)?(?![0-9]*:?$)(.+)")


def given_vectors(name: str, fetch: Fetch | None = None) -> AtomVectors:
    """Return the table of a name.

    ======================== ==========================================================================
    ``structure-mp``, ...    a table that this package ships, by its name in ``vectors/box``
    ``onehot``               one bit per element, all 118
    ``onehot92``             CGCNN's 92 bits, read from jarvis-tools
    ``elements``             binned properties of the element, the input of pretraining
    ``random:SEED[:DIM]``    standard normal components; ``random`` is ``random:0:200``
    ``permuted:NAME``        any other table with its rows permuted among elements;
                             ``permuted:SEED:NAME`` with another seed than 0
    ``mat2vec``, ...         a table of ElementEmbeddings, by its name there
    ``vectors.csv``, ...     a file or folder, as :func:`~crysatom.vectors.files.read_vectors` reads it
    ``runs:/``, ``models:/`` whatever ``fetch`` returns
    ======================== ==========================================================================

    Anything with a slash or a file extension is a path, anything else a name, whatever is in the working directory:
    write ``./mat2vec`` for a folder ``mat2vec``.

    Args:
        name: As above.
        fetch: Reads a table from the MLflow store, which this layer does not import:
            ``crysatom.tracking.vectors.load_vectors``.

    Returns:
        The table. Its provenance has ``vectors`` (the name), ``sha256`` (of the components, independent of the file
        format), and ``of``, the provenance of the table that it was read or permuted from.

    Raises:
        ValueError: If the name is unknown, or its table cannot be read.

    """
    table = _table(name, fetch)
    return dataclasses.replace(table, provenance={"vectors": name, "sha256": _sha256(table), **table.provenance})


def _table(name: str, fetch: Fetch | None) -> AtomVectors:
    if name in _FIXED:
        return _FIXED[name]()
    kind = name.partition(":")[0]
    if kind == "random":
        return _random(name)
    if kind == "permuted":
        return _permuted(name, fetch)
    if name.startswith((MODELS_URI, RUNS_URI)):
        return _fetched(name, fetch)
    if "/" in name or os.sep in name or Path(name).suffix:
        return _of(read_vectors(name))
    return _of(shipped_vectors(name)) if name in shipped_names() else _published(name)


def _random(name: str) -> AtomVectors:
    match = _RANDOM.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r}: random vectors are written random:SEED or random:SEED:DIM, with whole numbers")
    seed, dim = int(match[1] or DEFAULT_SEED), int(match[2] or DEFAULT_DIM)
    return dataclasses.replace(random_vectors(seed, dim), provenance={"seed": seed})


def _permuted(name: str, fetch: Fetch | None) -> AtomVectors:
    match = _PERMUTED.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r}: permuted vectors are written permuted:NAME or permuted:SEED:NAME; NAME: {CHOICES}")
    seed = int(match[1] or DEFAULT_SEED)
    return _of(permuted(given_vectors(match[2], fetch), seed), seed=seed)


def _fetched(name: str, fetch: Fetch | None) -> AtomVectors:
    if fetch is None:
        raise ValueError(
            f"{name}: crysatom.vectors does not read from MLflow; pass "
            "fetch=crysatom.tracking.vectors.load_vectors to given_vectors"
        )
    return _of(fetch(name))


def _published(name: str) -> AtomVectors:
    try:
        names = published_names()
    except ValueError as error:
        raise ValueError(f"no vectors are known as {name!r}: {error}; or choose among {CHOICES}") from error
    if name not in names:
        raise ValueError(f"no vectors are known as {name!r}; ElementEmbeddings has {', '.join(names)}; else: {CHOICES}")
    return published_vectors(name)


def _of(table: AtomVectors, **facts: Any) -> AtomVectors:
    """Return a table with new provenance; the source's provenance is nested in it."""
    return dataclasses.replace(table, provenance={**facts, "of": dict(table.provenance)})


def _sha256(table: AtomVectors) -> str:
    """Return the hexadecimal SHA-256 of shape, elements and components."""
    content = hashlib.sha256(repr(table.vectors.shape).encode())
    content.update(table.atomic_numbers.astype("<i8").tobytes())
    content.update(table.vectors.astype("<f4").tobytes())
    return content.hexdigest()
