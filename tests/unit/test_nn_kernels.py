"""The plain kernels against autograd of the published formula, and the compiled ones against the plain ones."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn import kernels
from crysatom.nn.edges import Edges
from crysatom.nn.kernels import numba_cpu, twin
from crysatom.nn.kernels.terms import Terms
from tests.kernel_cases import CASES, make_terms

EXACT = {"rtol": 1e-12, "atol": 1e-12}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}


def in_float32(edges: Edges) -> Edges:
    """The same edges; counts are small integers, so nothing is rounded but the features, which kernels do not read."""
    narrow = {name: getattr(edges, name) for name in ("basis", "count", "multiplicity", "copies")}
    return dataclasses.replace(edges, **{name: x if x is None else x.float() for name, x in narrow.items()})


def formula(terms: Terms, edges: Edges) -> tuple[Tensor, Tensor]:
    """Return y of each edge and the messages, edge by edge."""
    rows, width, atoms = [], terms.center.shape[1] // 2, edges.num_atoms // edges.num_views
    for i, j, r in zip(edges.center.tolist(), edges.neighbor.tolist(), edges.row.tolist(), strict=True):
        u = terms.center[i] + terms.neighbor[j] + terms.edge[r]
        rows.append(u * terms.gain[i // atoms] + terms.offset[i // atoms])
    y = (torch.stack(rows) if rows else terms.center.new_zeros(0, 2 * width)).requires_grad_()
    messages = torch.sigmoid(y[:, :width]) * F.softplus(y[:, width:], threshold=1000)
    return y, messages if edges.copies is None else messages * edges.copies[:, None]


@pytest.mark.parametrize("width", [1, 7])
@pytest.mark.parametrize("edges", CASES.values(), ids=CASES.keys())
def test_messages_and_gradients_are_those_of_the_formula(edges: Edges, width: int) -> None:
    terms = make_terms(edges, width)
    y, messages = formula(terms, edges)
    expected = messages
    if not edges.apart:
        expected = messages.new_zeros(edges.num_atoms, width).index_add(0, edges.center, messages)
    torch.testing.assert_close(kernels.message_sums(terms, edges), expected, **EXACT)
    cotangent = torch.randn_like(expected)
    (dy,) = torch.autograd.grad(expected, y, cotangent)
    grads = kernels.message_grads(terms, cotangent, edges)
    at_row = torch.zeros(edges.num_views, *terms.edge.shape, dtype=torch.float64)
    sums = [torch.zeros_like(terms.center), torch.zeros_like(terms.neighbor), at_row]
    for k, (i, j, r) in enumerate(zip(edges.center.tolist(), edges.neighbor.tolist(), edges.row.tolist(), strict=True)):
        sums[0][i] += dy[k]
        sums[1][j] += dy[k]
        sums[2][i // (edges.num_atoms // edges.num_views), r] += dy[k]
    for grad, reference in zip(grads, sums, strict=True):
        torch.testing.assert_close(grad, reference, **EXACT)


@pytest.mark.parametrize("width", [1, 7, 64, 200])
@pytest.mark.parametrize("edges", CASES.values(), ids=CASES.keys())
def test_compiled_kernels_agree_with_the_plain_ones(edges: Edges, width: int) -> None:
    assert kernels.chosen("cpu", torch.float32) is numba_cpu
    assert kernels.chosen("cpu", torch.float64) is twin
    terms, exact = make_terms(edges, width, torch.float32), make_terms(edges, width)
    out, expected = kernels.message_sums(terms, in_float32(edges)), kernels.message_sums(exact, edges)
    torch.testing.assert_close(out.double(), expected, **FLOAT32)
    cotangent = torch.randn(expected.shape)
    grads = kernels.message_grads(terms, cotangent, in_float32(edges))
    for grad, reference in zip(grads, kernels.message_grads(exact, cotangent.double(), edges), strict=True):
        torch.testing.assert_close(grad.double(), reference, **FLOAT32)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = in_float32(CASES["copies and count"])
    terms, cotangent = make_terms(edges, 100, torch.float32), torch.randn(edges.num_atoms, 100)
    results = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append([kernels.message_sums(terms, edges), *kernels.message_grads(terms, cotangent, edges)])
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_arguments_give_finite_values(dtype: torch.dtype) -> None:
    edges = CASES["three views"] if dtype == torch.float64 else in_float32(CASES["three views"])
    terms = make_terms(edges, 30, dtype, scale=100)  # y up to 10^5
    out = kernels.message_sums(terms, edges)
    grads = kernels.message_grads(terms, torch.ones_like(out), edges)
    assert out.max() > 2000
    assert all(bool(x.isfinite().all()) for x in (out, *grads))
    expected = kernels.message_sums(make_terms(CASES["three views"], 30, scale=100), CASES["three views"])
    # Terms cancel: the error of y is that of its terms, 10^5 * 6e-8.
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=0.05)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_hidden(value: float) -> None:
    edges = in_float32(CASES["one view"])
    terms = make_terms(edges, 20, torch.float32)
    terms.neighbor[edges.neighbor[0]] = value
    out = kernels.message_sums(terms, edges)
    assert not out[edges.center[0]].isfinite().all()
    grads = kernels.message_grads(terms, torch.ones_like(out), edges)
    if math.isnan(value):
        assert not grads[0][edges.center[0]].isfinite().all()
