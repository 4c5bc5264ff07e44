"""One computation on two devices: losses, gradients, predictions and vectors of a GPU against those of the CPU.

Every case returns named tensors. Two results agree if no tensor differs by more than a tolerance times its own largest
value; all gradients together count as one tensor, since some are zero up to rounding. Integers must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from gpu_data import Labeled, first
from torch import Tensor, nn

from crysatom.config import PretrainConfig
from crysatom.config.downstream import default
from crysatom.graphs.batch import GraphTensors, select
from crysatom.graphs.graph import GraphArrays
from crysatom.names import LOSS
from crysatom.nn.bases import expand_different, gaussian_centers
from crysatom.nn.condensed import condensed
from crysatom.nn.edges import Edges
from crysatom.nn.gated_sum import gated_sum
from crysatom.predictors.registry import PREDICTORS, build_predictor
from crysatom.ssl.losses import LOSSES
from crysatom.training.loaders import ResidentLoader
from crysatom.training.normalizer import Normalizer
from crysatom.training.pretrain import Algorithm1Recorder, build, extract
from crysatom.training.regression import Regression, predictions, spec_of
from crysatom.vectors.controls import one_hot
from crysatom.vectors.elements import element_features

Results = dict[str, Tensor]
Case = Callable[[torch.device, torch.dtype], Results]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference of two devices over the largest value of a tensor, by type of the computation. On a CPU, float32
differs from float64 by up to 3e-6, PotNet's gradient by 3e-5; TF32 would differ by some 1e-3."""

ROUNDING = 1e-6
"""The same for float32 results of a float64 computation: element vectors are stored in float32."""

GRADIENT = "gradient"
VARIANTS: dict[str, dict[str, str]] = {
    **{f"ssl_loss {name}": {"ssl_loss": name} for name in (*LOSSES, "none")},
    **{f"objective {name}": {"objective": name} for name in ("masking", "context", "masking_context")},
    "published views": {"masked_edges": "rerouted", "masked_atoms": "zero", "connectivity_mean": "pairs"},
}
"""Settings of the pretraining that are compared."""

KERNEL, CONDENSED, EXTRACTION = "gated_sum", "condensed graphs", "extraction"
NAMES = (
    KERNEL,
    CONDENSED,
    EXTRACTION,
    *(f"pretraining, {name}" for name in VARIANTS),
    *(f"predictor {name}" for name in PREDICTORS),
)
"""All cases."""

CHECKED = 256
"""Crystals of the data that are used, at most; networks see a batch of them."""

BATCH = 24
EPOCH = 3
"""Selects the masks."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Outcome of one case in one type.

    Attributes:
        case: Name of the case.
        dtype: Floating-point type.
        differences: Largest relative difference of each tensor; infinite if shapes or integers differ.
        tolerances: Largest difference of each that is allowed.

    """

    case: str
    dtype: str
    differences: Mapping[str, float]
    tolerances: Mapping[str, float]

    @property
    def wrong(self) -> dict[str, float]:
        """Differences above their tolerance, or NaN."""
        return {name: value for name, value in self.differences.items() if not value <= self.tolerances[name]}


def difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of two tensors over the largest absolute value of the second."""
    found, wanted = found.detach().cpu(), wanted.detach().cpu()
    if found.shape != wanted.shape or found.is_floating_point() != wanted.is_floating_point():
        return math.inf
    if not wanted.is_floating_point():
        return 0.0 if found.dtype == wanted.dtype and torch.equal(found, wanted) else math.inf
    if not wanted.numel():
        return 0.0
    scale = wanted.double().abs().max().clamp(min=torch.finfo(wanted.dtype).tiny)
    return float((found.double() - wanted.double()).abs().max() / scale)


def compare(name: str, case: Case, device: torch.device, dtype: torch.dtype) -> Comparison:
    """Run a case on a device and on the CPU, and compare; the kernel always with the CPU's float64."""
    with full_precision():
        found, wanted = case(device, dtype), case(torch.device("cpu"), torch.float64 if name == KERNEL else dtype)
    assert found.keys() == wanted.keys()
    differences = {key: difference(value, wanted[key]) for key, value in found.items()}
    tolerances = {
        key: ROUNDING if dtype == torch.float64 and value.dtype == torch.float32 else TOLERANCE[dtype]
        for key, value in found.items()
    }
    return Comparison(case=name, dtype=str(dtype), differences=differences, tolerances=tolerances)


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32, not in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cases(pool: GraphArrays, labeled: Mapping[str, Labeled], width: int) -> dict[str, Case]:
    """Return every case by name.

    Args:
        pool: Graphs for the pretraining.
        labeled: Graphs with labels for each predictor.
        width: Width of the networks.

    """
    pool = first(pool, CHECKED)
    labeled = {name: Labeled(first(data.arrays, CHECKED), data.targets[:CHECKED]) for name, data in labeled.items()}
    graphs = GraphTensors.of(pool)
    small = {"embedding_dim": width, "num_layers": 3, "projection_dim": 16, "batch_size": BATCH, "num_workers": 0}
    found: dict[str, Case] = {
        KERNEL: partial(_gated_sum, graphs, width),
        CONDENSED: partial(_condensed, graphs),
        EXTRACTION: partial(_extraction, pool, PretrainConfig.of(**small)),
    }
    for name, options in VARIANTS.items():
        found[f"pretraining, {name}"] = partial(_pretraining, graphs, PretrainConfig.of(**{**small, **options}))
    for name in PREDICTORS:
        found[f"predictor {name}"] = partial(_predictor, labeled[name], name, width)
    assert tuple(found) == NAMES
    return found


def _placed(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model; statistics that are float64 stay so."""
    model.to(device)
    if dtype == torch.float64:
        model.double()


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _pretraining(graphs: GraphTensors, config: PretrainConfig, device: torch.device, dtype: torch.dtype) -> Results:
    model = build(config, element_features(config.encoder.node_features))
    _placed(model, device, dtype)
    batch = select(graphs.to(device), torch.arange(min(BATCH, graphs.num_crystals)))
    terms = model(batch, EPOCH)
    terms[LOSS].backward()
    return {**terms, GRADIENT: _gradient(model), "vectors": model.atom_vectors(batch)}


def _extraction(pool: GraphArrays, config: PretrainConfig, device: torch.device, dtype: torch.dtype) -> Results:
    model = build(config, element_features(config.encoder.node_features))
    _placed(model, device, dtype)
    crystals = np.arange(min(4 * BATCH, len(pool.material_ids)))
    tensors = GraphTensors.of(pool).to(device)
    loader = ResidentLoader(tensors, crystals, material_ids=pool.material_ids, batch_size=BATCH)
    recorder = Algorithm1Recorder(config.encoder.embedding_dim, device)
    for number, batch in enumerate(loader.epoch(EPOCH)):
        recorder.record(batch, {"atoms": model.atom_vectors(batch)}, number == 0)
    every = extract(model, loader)
    numbers = torch.from_numpy(every.atomic_numbers)
    published = torch.from_numpy(recorder.to_vectors().vectors)
    return {"elements": numbers, "vectors": torch.from_numpy(every.vectors), "algorithm_1": published}


def _predictor(data: Labeled, name: str, width: int, device: torch.device, dtype: torch.dtype) -> Results:
    config = default(name).replace(width=width, hidden_dim=width, num_layers=2)
    torch.manual_seed(0)
    predictor = build_predictor(spec_of(config), one_hot())
    criterion = config.optimization.criterion
    model = Regression(predictor, Normalizer.of(data.targets), criterion=criterion)
    _placed(model, device, dtype)
    graphs = condensed(data.tensors(device))
    crystals = np.arange(min(BATCH, graphs.num_crystals))
    targets = torch.from_numpy(data.targets).to(device)
    ids = data.arrays.material_ids
    loader = ResidentLoader(graphs, crystals, material_ids=ids, batch_size=BATCH, targets=targets)
    [batch] = loader.epoch(0)
    terms = model(batch, 0)
    terms[LOSS].backward()
    gradient = _gradient(model)
    with torch.no_grad():
        indices, values = predictions(model, loader)
    return {
        **terms,
        GRADIENT: gradient,
        "crystals": torch.from_numpy(indices),
        "predictions": torch.from_numpy(values),
    }


def _condensed(graphs: GraphTensors, device: torch.device, dtype: torch.dtype) -> Results:  # noqa: ARG001 - a case
    some = condensed(graphs.to(device))
    names = ("atom_ptr", "edge_ptr", "atomic_numbers", "neighbor", "distance", "multiplicity", "copies")
    return {name: getattr(some, name) for name in names}


def _gated_sum(graphs: GraphTensors, width: int, device: torch.device, dtype: torch.dtype) -> Results:
    """Evaluate the convolution's kernel as the first batch needs it: training statistics, all edges of one view.

    In float32 this is the compiled kernel of the device, in float64 the plain one.
    """
    batch = select(graphs.to(device), torch.arange(min(BATCH, graphs.num_crystals)))
    centers = gaussian_centers(8.0).to(device, dtype)
    edges, _ = Edges.of(batch, expand_different(batch.distance, centers))
    random = torch.Generator().manual_seed(0)
    shapes = [(edges.num_atoms, 2 * width)] * 2 + [(2 * width, len(centers)), (2 * width,), (2 * width,)]
    given = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]
    center, neighbor, weight, scale, shift = (x.to(device, dtype).requires_grad_() for x in given)
    out, mean, variance = gated_sum(center, neighbor, weight, scale, shift, edges)
    factor = torch.randn(out.shape, generator=random, dtype=torch.float64).to(device, dtype)
    (out * factor).sum().backward()
    names = ("of_center", "of_neighbor", "of_weight", "of_scale", "of_shift")
    gradients = {name: x.grad for name, x in zip(names, (center, neighbor, weight, scale, shift), strict=True)}
    return {"out": out, "mean": mean, "variance": variance, **{k: v for k, v in gradients.items() if v is not None}}
