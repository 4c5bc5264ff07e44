"""Our CGCNN against the published network, implemented here from its formulas: float64, crystal by crystal.

The reference has the inputs of the published code: a row of 12 neighbors for each atom, where padding points at the
crystal's first atom at 9 angstrom. It concatenates both atoms' vectors and the Gaussians of each edge, maps the
result, and pools in a loop. Random weights have the names and shapes of the published checkpoints (Xie & Grossman,
PRL 120, 145301 (2018), and its code).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.config import GraphSpec
from crysatom.config.downstream import paper
from crysatom.crystals.table import Crystal
from crysatom.graphs.neighbors import RESOLUTION
from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.cgcnn import CGCNN
from crysatom.vectors.given import given_vectors
from crysatom.vectors.published import cgcnn_bits
from tests.graph_crystals import batch_of, brute_force, small, with_lattice

NEIGHBORS, CUTOFF, STEP = 12, 8.0, 0.2
TOLERANCE = {"rtol": 0, "atol": 1e-12}
"""Predictions are of order one; the observed difference in evaluation is 1e-15."""

SPECS = {
    "default": PredictorSpec(),
    "published checkpoints": PredictorSpec(num_layers=4, hidden_dim=32),
    "three hidden layers": PredictorSpec(num_layers=2, hidden_dim=16, num_hidden=3),
    "classification": PredictorSpec(num_layers=2, hidden_dim=32, outputs=2),
}


def random_weights(spec: PredictorSpec, num_features: int = 92) -> dict[str, Tensor]:
    """Weights in the published layout, scaled so that predictions are of order one."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) / max(shape[-1], 1) ** 0.5

    D, h = spec.width, spec.hidden_dim
    weights = {"embedding.weight": normal(D, num_features), "embedding.bias": normal(D)}
    for k in range(spec.num_layers):
        weights[f"convs.{k}.fc_full.weight"] = normal(2 * D, 2 * D + 41)
        weights[f"convs.{k}.fc_full.bias"] = normal(2 * D)
        for norm, size, typical in (("bn1", 2 * D, 0.0), ("bn2", D, 6.0)):  # a sum of 12 messages is about 6
            weights[f"convs.{k}.{norm}.weight"] = 1 + normal(size)
            weights[f"convs.{k}.{norm}.bias"] = normal(size)
            weights[f"convs.{k}.{norm}.running_mean"] = typical + normal(size)
            weights[f"convs.{k}.{norm}.running_var"] = 1 + typical + normal(size).square() * size
    weights |= {"conv_to_fc.weight": normal(h, D), "conv_to_fc.bias": normal(h)}
    for k in range(spec.num_hidden - 1):
        weights |= {f"fcs.{k}.weight": normal(h, h), f"fcs.{k}.bias": normal(h)}
    return weights | {"fc_out.weight": normal(spec.outputs, h), "fc_out.bias": normal(spec.outputs)}


def converted(spec: PredictorSpec, weights: dict[str, Tensor]) -> CGCNN:
    model = CGCNN(spec, cgcnn_bits()).double()
    own = {k: v for k, v in model.state_dict().items() if k.startswith("table.")}
    model.load_state_dict({**weights, **own})
    # the Gaussians' centers are float32; converted to float64 they deviate by 1e-8 angstrom
    model.centers.copy_(torch.arange(41, dtype=torch.float64) * STEP)
    return model


def gaussians(distance: Tensor) -> Tensor:
    """Gaussians of distances, ``(..., 41)``."""
    centers = torch.arange(41, dtype=torch.float64) * STEP
    return torch.exp(-((distance[..., None] - centers) ** 2) / STEP**2)


def reference(
    w: dict[str, Tensor], elements: Tensor, neighbors: Tensor, distances: Tensor, sizes: list[int], *, training: bool
) -> Tensor:
    """The published forward pass, without dropout.

    Args:
        w: Weights.
        elements: ``(N, 92)`` features of the atoms.
        neighbors: ``(N, 12)`` atoms of the batch.
        distances: ``(N, 12)`` angstrom.
        sizes: Atoms of each crystal.
        training: Normalize by the statistics of the batch.

    """

    def normalized(x: Tensor, name: str) -> Tensor:
        mean, var = w[f"{name}.running_mean"].clone(), w[f"{name}.running_var"].clone()
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"], training=training)

    edges = gaussians(distances)
    h = F.linear(elements, w["embedding.weight"], w["embedding.bias"])
    for k in range(sum(name.endswith("fc_full.bias") for name in w)):
        joined = torch.cat([h[:, None].expand(-1, NEIGHBORS, -1), h[neighbors], edges], dim=2)
        u = F.linear(joined, w[f"convs.{k}.fc_full.weight"], w[f"convs.{k}.fc_full.bias"])
        gate, core = normalized(u.flatten(0, 1), f"convs.{k}.bn1").view_as(u).chunk(2, dim=2)
        message = (torch.sigmoid(gate) * F.softplus(core)).sum(1)
        h = F.softplus(h + normalized(message, f"convs.{k}.bn2"))
    outputs = []
    for atoms in h.split(sizes):
        x = F.softplus(atoms.mean(0))
        x = F.softplus(F.linear(x, w["conv_to_fc.weight"], w["conv_to_fc.bias"]))
        for k in range(sum(name.startswith("fcs.") for name in w) // 2):
            x = F.softplus(F.linear(x, w[f"fcs.{k}.weight"], w[f"fcs.{k}.bias"]))
        x = F.linear(x, w["fc_out.weight"], w["fc_out.bias"])
        outputs.append(F.log_softmax(x, dim=0) if len(x) > 1 else x[0])
    return torch.stack(outputs)


@pytest.fixture(scope="module", name="crystals")
def _crystals() -> list[Crystal]:
    """Real crystals of up to 12 atoms; two expanded so that their lists are short, and an isolated atom."""
    chosen = small(12, 20)
    thin = [with_lattice(c, 2.5 * c.lattice, c.frac_coords) for c in chosen[:2]]
    return [*chosen, *thin, with_lattice(chosen[0], 40.0 * np.eye(3), chosen[0].frac_coords)]


@pytest.fixture(scope="module", name="batch")
def _batch(crystals: list[Crystal]) -> Batch:
    batch = batch_of(crystals, paper("cgcnn").graph)
    assert (batch.distance > CUTOFF).sum() > NEIGHBORS, "some edges are padding"
    return batch


def rows(batch: Batch) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Elements, neighbors, distances and sizes of a batch in the format of the published code."""
    assert (batch.degree == NEIGHBORS).all()
    elements = torch.from_numpy(cgcnn_bits().lookup(batch.atomic_numbers.numpy())).double()
    neighbors, distances = (x.view(-1, NEIGHBORS) for x in (batch.edge_index[0], batch.distance.double()))
    return elements, neighbors, distances, batch.ptr.diff().tolist()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_evaluation(spec: PredictorSpec, batch: Batch) -> None:
    weights = random_weights(spec)
    expected = reference(weights, *rows(batch), training=False)
    assert expected.std() > 0.005
    with torch.no_grad():
        found = converted(spec, weights).eval()(batch)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["default", "published checkpoints", "three hidden layers"])
def test_training_and_its_gradients(name: str, batch: Batch) -> None:
    weights = random_weights(SPECS[name])
    model = converted(SPECS[name], weights).train()
    trained = {k: v.requires_grad_() for k, v in weights.items() if "running" not in k and "fc_full.bias" not in k}
    expected = reference(weights, *rows(batch), training=True)
    found = model(batch)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    cotangent = torch.linspace(-1, 1, len(expected)).double()
    theirs = torch.autograd.grad(expected, list(trained.values()), cotangent)
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad(found, [parameters[k] for k in trained], cotangent)
    for key, mine, reference_grad in zip(trained, ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference_grad, rtol=1e-9, atol=1e-11, msg=lambda m, k=key: f"{k}: {m}")


def test_from_the_crystal_on(crystals: list[Crystal], batch: Batch) -> None:
    """The reference also finds neighbors, among all images; equidistant ones are in order of sites.

    Tolerance 1e-5: distances are on a grid of 1e-6 angstrom, and may round to the next grid point here.
    """
    spec = SPECS["published checkpoints"]
    weights = random_weights(spec)
    found = converted(spec, weights).eval()(batch).detach()
    elements, neighbors, distances, sizes, first = [], [], [], [], 0
    for crystal in crystals:
        for near, _, far in brute_force(crystal, CUTOFF):
            steps = np.round(far / RESOLUTION).astype(int)
            order = np.lexsort((near, steps))[:NEIGHBORS]
            missing = NEIGHBORS - len(order)
            neighbors.append(first + np.append(near[order], [0] * missing))
            distances.append(np.append(steps[order] * RESOLUTION, [CUTOFF + 1] * missing))
        elements.append(cgcnn_bits().lookup(crystal.atomic_numbers))
        sizes.append(len(crystal.atomic_numbers))
        first += sizes[-1]
    expected = reference(
        weights,
        torch.from_numpy(np.concatenate(elements)).double(),
        torch.from_numpy(np.stack(neighbors)).long(),
        torch.from_numpy(np.stack(distances)),
        sizes,
        training=False,
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_names_and_shapes_of_the_published_layout() -> None:
    for spec in SPECS.values():
        model = CGCNN(spec, cgcnn_bits())
        own = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.startswith("table.")}
        assert own == {k: tuple(v.shape) for k, v in random_weights(spec).items()}


@pytest.mark.parametrize(
    ("spec", "num_features", "expected"),
    [
        (PredictorSpec(), 92, 80_833),
        (PredictorSpec(), 200, 87_745),
        (SPECS["published checkpoints"], 92, 96_641),
        (PredictorSpec(num_layers=4, hidden_dim=32, outputs=2), 92, 96_674),
    ],
    ids=["CGCNN", "CrysAtom downstream", "checkpoints", "classifier"],
)
def test_numbers_of_parameters_are_the_published_ones(spec: PredictorSpec, num_features: int, expected: int) -> None:
    model = CGCNN(spec, given_vectors(f"random:0:{num_features}"))
    assert sum(p.numel() for p in model.parameters()) == expected


def test_the_published_graph() -> None:
    assert paper("cgcnn").graph == GraphSpec(
        cutoff=CUTOFF, num_neighbors=NEIGHBORS, ties="truncate", pad_short_lists=True
    )
