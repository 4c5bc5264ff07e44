"""Published tables, read from the packages that contain them; none is copied into this repository.

ElementEmbeddings: github.com/WMD-group/ElementEmbeddings (MIT license); its README names the source of
each table. CGCNN's bits: jarvis-tools.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import io
import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from crysatom.names import CGCNN_BITS, SYMBOLS
from crysatom.vectors.elements import element_features
from crysatom.vectors.table import AtomVectors

INSTALL = 'pip install "crysatom[vectors]"'


def cgcnn_bits() -> AtomVectors:
    """Return CGCNN's 92 bits for Z = 1..100: ``(100, 92)``; four pairs of elements have equal rows.

    Raises:
        ValueError: If jarvis-tools is not installed.

    """
    bits = element_features(CGCNN_BITS)
    provenance = {"package": f"jarvis-tools {importlib.metadata.version('jarvis-tools')}"}
    return AtomVectors(atomic_numbers=bits.atomic_numbers, vectors=bits.features, provenance=provenance)


def published_names() -> tuple[str, ...]:
    """Return the names of ElementEmbeddings' tables of elements.

    Raises:
        ValueError: If the package is not installed.

    """
    try:
        from elementembeddings.utils.config import DEFAULT_ELEMENT_EMBEDDINGS
    except ModuleNotFoundError as error:
        raise ValueError(f"ElementEmbeddings, which carries published vectors, is not installed: {INSTALL}") from error
    return tuple(DEFAULT_ELEMENT_EMBEDDINGS)


def published_vectors(name: str) -> AtomVectors:
    """Return a table of ElementEmbeddings, read from its data file: the package's reader imports numba, for seconds.

    Its linear scales (``atomic``, ``mod_petti``) become one-hot rows, as in its ``Embedding``.

    Args:
        name: One of :func:`published_names`.

    """
    from elementembeddings.utils.config import DEFAULT_ELEMENT_EMBEDDINGS

    data = importlib.resources.files("elementembeddings") / "data" / "element_representations"
    text = (data / DEFAULT_ELEMENT_EMBEDDINGS[name]).read_text(encoding="utf-8")
    if DEFAULT_ELEMENT_EMBEDDINGS[name].endswith(".json"):
        table = table_of_rows(one_hot_if_linear(json.loads(text)))
    else:
        frame = pd.read_csv(io.StringIO(text), index_col="element")
        table = table_of_rows(dict(zip(frame.index, frame.to_numpy(), strict=True)))
    package = f"ElementEmbeddings {importlib.metadata.version('ElementEmbeddings')}"
    return AtomVectors(
        atomic_numbers=table.atomic_numbers,
        vectors=table.vectors,
        provenance={"package": package, **table.provenance},
    )


def one_hot_if_linear(rows: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
    """Convert the positions 0, 1, ... of a linear scale of elements to one-hot rows; return vectors unchanged.

    The modified Pettifor scale has 103 positions, for the elements up to lawrencium. The heavier elements and the
    isotopes in its file share positions with others and are left out.
    """
    if np.ndim(next(iter(rows.values()))):
        return rows
    places = {symbol: int(np.asarray(place)) for symbol, place in rows.items()}
    num_places = min(len(set(places.values())), len(SYMBOLS))
    bits = np.eye(num_places)
    return {symbol: bits[place] for symbol, place in places.items() if symbol in SYMBOLS[:num_places]}


def table_of_rows(rows: Mapping[str, ArrayLike]) -> AtomVectors:
    """Return the table of rows by symbol without invalid rows, which ``dropped`` in its provenance lists.

    An element whose row has NaN is left out, not set to zero, so that a crystal with it raises an error. Rows of former
    symbols (Uut) are dropped too, so that no element has two.

    Raises:
        ValueError: If no row is left.

    """
    kept: dict[int, ArrayLike] = {}
    dropped: dict[str, str] = {}
    for symbol, row in rows.items():
        with np.errstate(over="ignore"):  # overflow becomes infinite and is dropped
            vector = np.asarray(row, dtype=np.float64).astype(np.float32)
        if symbol not in SYMBOLS:
            dropped[symbol] = "not an element symbol"
        elif not np.isfinite(vector).all():
            dropped[symbol] = "a component is NaN or infinite"
        else:
            kept[SYMBOLS.index(symbol) + 1] = vector
    if not kept:
        raise ValueError(f"no element has a vector; dropped: {dropped}")
    numbers = sorted(kept)
    return AtomVectors(
        atomic_numbers=np.array(numbers, dtype=np.int64),
        vectors=np.stack([kept[z] for z in numbers]),
        provenance={"dropped": dropped},
    )
