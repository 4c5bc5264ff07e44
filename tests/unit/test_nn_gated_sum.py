"""The gated sum against its formula, edge by edge, with torch's own normalization and autograd.

float64; tolerance 1e-11 absolute on values of order one, a thousand times the rounding of sums of some
hundred terms.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn.edges import Edges
from crysatom.nn.gated_conv import GatedConv
from crysatom.nn.gated_sum import gated_sum
from tests.kernel_cases import make_edges

WIDTH, FEATURES = 3, 4
TOLERANCE = {"rtol": 1e-11, "atol": 1e-11}
DEGREES = {
    "one view": [[3, 1, 4, 2, 5, 2]],
    "three views": [[3, 1, 4, 2, 5, 2], [2, 1, 4, 2, 4, 2], [3, 1, 3, 2, 5, 1]],
    "atoms without edges": [[0, 0, 4, 0, 5, 0], [0, 7, 0, 0, 0, 1]],
    "a view without edges": [[3, 1, 4, 2, 5, 2], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]],
    "all edges at one atom": [[0, 0, 17, 0, 0, 0]],
}


def make_inputs(num_atoms: int) -> list[Tensor]:
    """center_term, neighbor_term, weight, scale, shift."""
    shapes = [(num_atoms, 2 * WIDTH), (num_atoms, 2 * WIDTH), (2 * WIDTH, FEATURES), (2 * WIDTH,), (2 * WIDTH,)]
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]


def view_ends(edges: Edges) -> list[tuple[int, int]]:
    """Return the first edge of each view and the first one after it."""
    atoms = edges.num_atoms // edges.num_views
    ends = edges.edge_ptr[torch.arange(edges.num_views + 1) * atoms].tolist()
    return list(itertools.pairwise(ends))


def formula(inputs: list[Tensor], edges: Edges, statistics: tuple[Tensor, Tensor] | None) -> Tensor:
    center_term, neighbor_term, weight, scale, shift = inputs
    u = center_term[edges.center] + neighbor_term[edges.neighbor] + edges.basis[edges.row] @ weight.T
    out = torch.zeros(edges.num_atoms, WIDTH, dtype=torch.float64)
    for first, last in view_ends(edges):
        mean, variance = statistics or (None, None)
        if first == last:
            continue
        y = F.batch_norm(u[first:last], mean, variance, scale, shift, training=statistics is None)
        message = torch.sigmoid(y[:, :WIDTH]) * F.softplus(y[:, WIDTH:])
        out = out.index_add(0, edges.center[first:last], message)
    return out


@pytest.mark.parametrize("evaluate", [False, True], ids=["batch statistics", "given statistics"])
@pytest.mark.parametrize("degrees", DEGREES.values(), ids=DEGREES.keys())
def test_values_and_gradients_are_those_of_the_formula(degrees: list[list[int]], evaluate: bool) -> None:
    edges = make_edges(degrees)
    given = (torch.linspace(-1, 1, 2 * WIDTH).double(), torch.linspace(0.5, 2, 2 * WIDTH).double())
    statistics = given if evaluate else None
    inputs = make_inputs(edges.num_atoms)
    expected = formula(inputs, edges, statistics)
    out, _, _ = gated_sum(*inputs, edges, statistics=statistics)
    torch.testing.assert_close(out, expected, **TOLERANCE)
    # Uneven cotangent: with an even one, batch normalization would hide errors.
    cotangent = torch.randn(out.shape, dtype=torch.float64)
    ours = torch.autograd.grad(out, inputs, cotangent)
    theirs = torch.autograd.grad(expected, inputs, cotangent)
    for name, mine, reference in zip(("S", "T", "W_e", "gamma", "beta"), ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def test_statistics_are_those_of_each_view() -> None:
    edges = make_edges(DEGREES["three views"])
    inputs = make_inputs(edges.num_atoms)
    _, mean, variance = gated_sum(*inputs, edges)
    u = inputs[0][edges.center] + inputs[1][edges.neighbor] + edges.basis[edges.row] @ inputs[2].T
    for view, (first, last) in enumerate(view_ends(edges)):
        torch.testing.assert_close(mean[view], u[first:last].mean(0).detach(), **TOLERANCE)
        torch.testing.assert_close(variance[view], u[first:last].var(0, unbiased=False).detach(), **TOLERANCE)


@pytest.mark.parametrize("evaluate", [False, True], ids=["batch statistics", "given statistics"])
def test_numerical_derivatives(evaluate: bool) -> None:
    edges = make_edges(DEGREES["three views"])
    given = (torch.zeros(2 * WIDTH).double(), torch.ones(2 * WIDTH).double())
    statistics = given if evaluate else None
    inputs = make_inputs(edges.num_atoms)
    assert torch.autograd.gradcheck(lambda *x: gated_sum(*x, edges, statistics=statistics)[0], inputs)


def test_exponents_that_overflow() -> None:
    edges = make_edges(DEGREES["three views"])
    inputs = make_inputs(edges.num_atoms)
    with torch.no_grad():
        inputs[3].mul_(5000)  # softplus of thousands equals its argument, and two to that power is not finite
    expected = formula(inputs, edges, None)
    out, _, _ = gated_sum(*inputs, edges)
    assert out.max() > 2000
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-9)
    ours, theirs = (torch.autograd.grad(x.sum(), inputs[:3]) for x in (out, expected))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-7)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("degrees", DEGREES.values(), ids=DEGREES.keys())
def test_equal_edges_evaluated_once_change_nothing(degrees: list[list[int]], training: bool) -> None:
    edges = make_edges(degrees)
    torch.manual_seed(0)
    conv = GatedConv(WIDTH, FEATURES).double().train(training)
    table = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    kind = torch.randint(3, (edges.num_atoms,))
    weights = [table, *(p for p in conv.parameters() if p.requires_grad)]
    cotangent = torch.randn(edges.num_atoms, WIDTH, dtype=torch.float64)
    outputs, grads, running = [], [], []
    for rows, given in ((table, kind), (table[kind], None)):
        conv.load_state_dict(GatedConv(WIDTH, FEATURES).double().state_dict() | dict(conv.named_parameters()))
        outputs.append(conv(rows, edges, given))
        grads.append(torch.autograd.grad(outputs[-1], weights, cotangent))
        running.append(torch.cat([conv.bn1.running_mean, conv.bn1.running_var, conv.bn2.running_mean]))
    for one, two in zip((outputs[0], running[0], *grads[0]), (outputs[1], running[1], *grads[1]), strict=True):
        torch.testing.assert_close(one, two, **TOLERANCE)


def test_features_in_other_rows_change_nothing() -> None:
    edges = make_edges(DEGREES["three views"])
    expanded = dataclasses.replace(edges, basis=edges.basis[edges.row], row=torch.arange(len(edges.row)))
    inputs = make_inputs(edges.num_atoms)
    grads = []
    for variant in (edges, expanded):
        out, _, _ = gated_sum(*inputs, variant)
        grads.append([out.detach(), *torch.autograd.grad(out.square().sum(), inputs)])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, **TOLERANCE)
