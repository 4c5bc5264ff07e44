"""Pretrained encoders and trained models that a training starts from: find and check them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from crysatom.config import DownstreamConfig, GraphSpec
from crysatom.models.finetuning import TrainedModel, load_trained
from crysatom.names import MODELS_URI, RUNS_URI, SYMBOLS
from crysatom.predictors.registry import build_predictor
from crysatom.predictors.transfer import start_from_encoder
from crysatom.runs.paths import find
from crysatom.tracking.encoders import fetch_encoder
from crysatom.tracking.models import fetch_trained, is_in_mlflow
from crysatom.training.encoder_files import PretrainedEncoder, load_encoder
from crysatom.training.regression import spec_of
from crysatom.vectors.controls import one_hot
from crysatom.vectors.table import AtomVectors


def pretrained_encoders(
    config: DownstreamConfig, tracking_uri: str
) -> tuple[PretrainedEncoder | None, PretrainedEncoder | None]:
    """Return the encoder that a training starts from and the one it is distilled from; None if not configured.

    Raises:
        ValueError: If one is not found, or does not fit the configuration.

    """
    init, teacher = (
        given_encoder(name, config.graph, tracking_uri) if name else None
        for name in (config.start.init_encoder, config.start.distill)
    )
    if init is not None:
        starts_with_embedding(config, init, one_hot())  # fail before the graphs are built
    return init, teacher


def given_model(config: DownstreamConfig, tracking_uri: str) -> TrainedModel | None:
    """Return the trained model that a training starts from; None if not configured.

    Raises:
        ValueError: If there is none, or its architecture or graphs differ.

    """
    if not (name := config.start.init_model):
        return None
    model = fetch_trained(name, tracking_uri) if is_in_mlflow(name) else load_trained(find(name))
    mine = {**spec_of(config).to_dict(), **dataclasses.asdict(config.graph)}
    theirs = {**model.info.spec.to_dict(), **dataclasses.asdict(model.info.graph)}
    if differing := ", ".join(
        f"{key} {theirs[key]} there, {mine[key]} here" for key in mine if mine[key] != theirs[key]
    ):
        raise ValueError(f"{name}: the model differs from this configuration ({differing}); give the model's options")
    return model


def given_encoder(name: str, graph: GraphSpec, tracking_uri: str) -> PretrainedEncoder:
    """Return the encoder of a pretraining run.

    Args:
        name: Folder of the run, ``runs:/ID``, or ``models:/NAME/VERSION`` of its vectors.
        graph: Graph settings of the predictor.
        tracking_uri: MLflow store.

    Raises:
        ValueError: If there is none, or it was trained on graphs of another kind.

    """
    uri = name.startswith((RUNS_URI, MODELS_URI))
    encoder = fetch_encoder(name, tracking_uri) if uri else load_encoder(find(name))
    mine, theirs = dataclasses.asdict(graph), dataclasses.asdict(encoder.graph)
    differing = ", ".join(f"{key} {theirs[key]} there, {mine[key]} here" for key in mine if mine[key] != theirs[key])
    if differing:
        raise ValueError(
            f"{name}: the encoder was trained on other graphs than this predictor reads ({differing}); "
            "give the graph options of the pretraining"
        )
    return encoder


def starts_with_embedding(config: DownstreamConfig, encoder: PretrainedEncoder, vectors: AtomVectors) -> bool:
    """Return whether a predictor with these vectors can also start from the encoder's embedding.

    Raises:
        ValueError: If it cannot start from the encoder at all.

    """
    predictor = build_predictor(spec_of(config), vectors)
    try:
        return start_from_encoder(predictor, encoder.weights, encoder.features, encoder.atomic_numbers)
    except ValueError as error:
        raise ValueError(f"{config.start.init_encoder}: {error}") from error


def require_known(name: str, encoder: PretrainedEncoder, atomic_numbers: Iterable[int]) -> None:
    """Check that an encoder has features of all elements; it would read zeros for others.

    Args:
        name: Name of the encoder, for the message.
        encoder: Pretrained encoder.
        atomic_numbers: Elements that it must read.

    Raises:
        ValueError: If features are missing; the message names the elements.

    """
    unknown = sorted(set(atomic_numbers) - set(encoder.atomic_numbers.tolist()))
    if unknown:
        raise ValueError(
            f"{name}: the encoder has no features of {', '.join(SYMBOLS[z - 1] for z in unknown)}, which training "
            "crystals hold; pretrain with --node-features that cover them"
        )
