"""The plain kernels against autograd of the published formula, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn import kernels
from crysatom.nn.edges import Edges
from tests.kernel_cases import CASES, make_tables

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def formula(tables: tuple[Tensor, ...], edges: Edges) -> tuple[Tensor, Tensor]:
    """Return y of each edge and the messages, edge by edge."""
    of_center, of_neighbor, of_edge = tables
    rows, width, atoms = [], of_center.shape[1] // 2, edges.num_atoms // edges.num_views
    for i, j, r in zip(edges.center.tolist(), edges.neighbor.tolist(), edges.row.tolist(), strict=True):
        rows.append(of_center[i] + of_neighbor[j] + of_edge[i // atoms, r])
    x = torch.stack(rows) if rows else of_center.new_zeros(0, 2 * width)
    y = (x * math.log(2) * torch.tensor([-1.0] * width + [1.0] * width)).detach().requires_grad_()
    messages = torch.sigmoid(y[:, :width]) * F.softplus(y[:, width:], threshold=1000)
    return y, messages if edges.copies is None else messages * edges.copies[:, None]


@pytest.mark.parametrize("width", [1, 7])
@pytest.mark.parametrize("edges", CASES.values(), ids=CASES.keys())
def test_messages_and_gradients_are_those_of_the_formula(edges: Edges, width: int) -> None:
    tables = make_tables(edges, width)
    y, messages = formula(tables, edges)
    expected = messages
    if not edges.apart:
        expected = messages.new_zeros(edges.num_atoms, width).index_add(0, edges.center, messages)
    torch.testing.assert_close(kernels.message_sums(*tables, edges), expected, **TOLERANCE)
    cotangent = torch.randn_like(expected)
    (dy,) = torch.autograd.grad(expected, y, cotangent)
    grads = kernels.message_grads(*tables, cotangent, edges)
    for grad, table in zip(grads, tables, strict=True):
        assert grad.shape == table.shape
    expected_grads = [torch.zeros_like(table) for table in tables]
    for k, (i, j, r) in enumerate(zip(edges.center.tolist(), edges.neighbor.tolist(), edges.row.tolist(), strict=True)):
        expected_grads[0][i] += dy[k]
        expected_grads[1][j] += dy[k]
        expected_grads[2][i // (edges.num_atoms // edges.num_views), r] += dy[k]
    for grad, reference in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, reference, **TOLERANCE)


@pytest.mark.parametrize("edges", CASES.values(), ids=CASES.keys())
def test_sums_of_terms_are_weighted_by_count(edges: Edges) -> None:
    of_center, of_neighbor, (of_edge, *_) = make_tables(edges, 3)
    at_center, at_neighbor = torch.zeros_like(of_center), torch.zeros_like(of_center)
    for k, (i, j, r) in enumerate(zip(edges.center.tolist(), edges.neighbor.tolist(), edges.row.tolist(), strict=True)):
        count = 1 if edges.count is None else edges.count[k]
        at_center[i] += count * (of_neighbor[j] + of_edge[r])
        at_neighbor[j] += count * (of_center[i] + of_edge[r])
    torch.testing.assert_close(kernels.term_sums(of_neighbor, of_edge, edges), at_center, **TOLERANCE)
    torch.testing.assert_close(kernels.reverse_term_sums(of_center, of_edge, edges), at_neighbor, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_large_exponents_give_finite_values(dtype: torch.dtype) -> None:
    edges = CASES["three views"]
    tables = tuple((5000 * table).to(dtype) for table in make_tables(edges, 3))
    out = kernels.message_sums(*tables, edges)
    grads = kernels.message_grads(*tables, torch.ones_like(out), edges)
    assert out.max() > 2000
    assert all(bool(x.isfinite().all()) for x in (out, *grads))
    assert {x.dtype for x in (out, *grads)} == {torch.promote_types(dtype, torch.float32)}
