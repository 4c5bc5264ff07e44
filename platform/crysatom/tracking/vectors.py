"""Vectors as versions of a registered model, read by name or by run."""

from __future__ import annotations

import tempfile

from crysatom.names import MODELS_URI, RUNS_URI
from crysatom.tracking.fields import VECTORS
from crysatom.tracking.registry import download
from crysatom.vectors.files import VECTORS_SAFETENSORS, read_vectors
from crysatom.vectors.table import AtomVectors


def load_vectors(uri: str, tracking_uri: str = "") -> AtomVectors:
    """Read vectors from ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``runs:/ID``, or a path.

    Args:
        uri: URI or path of the vectors.
        tracking_uri: Store; empty: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory.

    Raises:
        ValueError: If the store has nothing of that name, or the file is broken.

    """
    if not uri.startswith((MODELS_URI, RUNS_URI)):
        return read_vectors(uri)
    with tempfile.TemporaryDirectory() as folder:
        path = download(uri, tracking_uri, VECTORS, VECTORS_SAFETENSORS, folder)
        try:
            return read_vectors(path)
        except ValueError as error:  # its message names the temporary copy
            raise ValueError(str(error).replace(str(path), uri)) from error
