"""Pretrained encoders among the artifacts of their runs."""

from __future__ import annotations

import tempfile

from crysatom.tracking.registry import download, run_of
from crysatom.training.encoder_files import ENCODER, PretrainedEncoder, load_encoder


def fetch_encoder(uri: str, tracking_uri: str = "") -> PretrainedEncoder:
    """Read the encoder of a pretraining run.

    Args:
        uri: ``runs:/ID``; or ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` of the run's vectors.
        tracking_uri: Store; empty: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory.

    Raises:
        ValueError: If the store holds no encoder of that name, or the files are broken.

    """
    with tempfile.TemporaryDirectory() as folder:
        path = download(run_of(uri, tracking_uri), tracking_uri, ENCODER, "", folder)
        try:
            return load_encoder(path)
        except ValueError as error:  # its message names the temporary copy
            raise ValueError(str(error).replace(str(path), uri)) from error
