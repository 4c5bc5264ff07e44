"""Pretrained encoders by the names that flags give them, and whether they fit what is to be trained."""

from __future__ import annotations

import dataclasses

from crysatom.config import DownstreamConfig
from crysatom.names import MODELS_URI, RUNS_URI
from crysatom.pipelines.labeled import tracking_uri
from crysatom.pipelines.places import find
from crysatom.predictors.registry import build_predictor
from crysatom.predictors.transfer import start_from_encoder
from crysatom.tracking.encoders import fetch_encoder
from crysatom.training.encoder_files import PretrainedEncoder, load_encoder
from crysatom.training.regression import spec_of
from crysatom.vectors.controls import one_hot
from crysatom.vectors.table import AtomVectors


def pretrained_encoders(config: DownstreamConfig) -> tuple[PretrainedEncoder | None, PretrainedEncoder | None]:
    """Return the encoder that a training starts from, and the one it is distilled by, as far as asked for.

    Raises:
        ValueError: If one is not found, or does not fit the configuration.

    """
    init = given_encoder(config.init_encoder, config) if config.init_encoder else None
    if init is not None:
        _require_shape(config, init)
        starts_with_embedding(config, init, one_hot())  # refused now rather than after the graphs are built
    return init, given_encoder(config.distill, config) if config.distill else None


def given_encoder(name: str, config: DownstreamConfig) -> PretrainedEncoder:
    """Return the encoder of a pretraining run.

    Args:
        name: Folder of the run, ``runs:/ID``, or ``models:/NAME/VERSION`` of its vectors.
        config: Of the job.

    Raises:
        ValueError: If there is none, or it learned from graphs of another kind.

    """
    uri = name.startswith((RUNS_URI, MODELS_URI))
    encoder = fetch_encoder(name, tracking_uri(config)) if uri else load_encoder(find(name))
    mine, theirs = dataclasses.asdict(config.graph), dataclasses.asdict(encoder.graph)
    differing = ", ".join(f"{key} {theirs[key]} there, {mine[key]} here" for key in mine if mine[key] != theirs[key])
    if differing:
        raise ValueError(
            f"{name}: the encoder learned from other graphs than this predictor is to see ({differing}); "
            "give the graph options of the pretraining"
        )
    return encoder


def starts_with_embedding(config: DownstreamConfig, encoder: PretrainedEncoder, vectors: AtomVectors) -> bool:
    """Tell whether a predictor of these vectors starts from the encoder's embedding, too.

    Raises:
        ValueError: If it cannot start from the encoder at all.

    """
    predictor = build_predictor(spec_of(config), vectors)
    return start_from_encoder(predictor, encoder.weights, encoder.features, encoder.atomic_numbers)


def _require_shape(config: DownstreamConfig, encoder: PretrainedEncoder) -> None:
    if (encoder.width, encoder.num_layers) != (config.width, config.num_layers):
        raise ValueError(
            f"{config.init_encoder}: the encoder has {encoder.num_layers} convolutions of width {encoder.width}, "
            f"the predictor {config.num_layers} of width {config.width}; give --width {encoder.width} "
            f"--num-layers {encoder.num_layers}"
        )
