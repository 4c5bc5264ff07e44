"""The plain kernels against autograd of the published formula, and the compiled ones against the plain ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn.edges import Edges
from crysatom.nn.kernels import kernels, numba_cpu, twin
from crysatom.nn.kernels.terms import Norm, Terms
from tests.kernel_cases import CASES, make_terms

EXACT: Any = {"rtol": 1e-12, "atol": 1e-12}
FLOAT32: Any = {"rtol": 1e-5, "atol": 1e-5}


def in_float32(edges: Edges) -> Edges:
    """The same edges; counts are small integers, so nothing is rounded but the features, which kernels do not read."""
    count, copies = (x if x is None else x.float() for x in (edges.count, edges.copies))
    return dataclasses.replace(edges, basis=edges.basis.float(), count=count, copies=copies)


def formula(terms: Terms, norm: Norm, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
    """Return u - mean and y of each edge, and the messages, edge by edge."""
    rows, width, atoms = [], terms.center.shape[1] // 2, edges.num_atoms // edges.num_views
    for i, j, r in zip(edges.center.tolist(), edges.neighbor.tolist(), edges.row.tolist(), strict=True):
        rows.append(terms.center[i] + terms.neighbor[j] + terms.edge[r] - norm.mean[i // atoms])
    d = torch.stack(rows) if rows else terms.center.new_zeros(0, 2 * width)
    y = (d * norm.gain[edges.center // atoms] + norm.offset).requires_grad_()
    messages = torch.sigmoid(y[:, :width]) * F.softplus(y[:, width:], threshold=1000)
    return d, y, messages if edges.copies is None else messages * edges.copies[:, None]


def sums(values: Tensor, edges: Edges) -> list[Tensor]:
    """Sums of values of edges at centers, neighbors, rows and views, edge by edge."""
    atoms = edges.num_atoms // edges.num_views
    sizes = edges.num_atoms, edges.num_atoms, len(edges.basis), edges.num_views
    at_center, at_neighbor, at_row, at_view = (values.new_zeros(size, values.shape[1]) for size in sizes)
    for k, (i, j, r) in enumerate(zip(edges.center.tolist(), edges.neighbor.tolist(), edges.row.tolist(), strict=True)):
        at_center[i] += values[k]
        at_neighbor[j] += values[k]
        at_row[r] += values[k]
        at_view[i // atoms] += values[k]
    return [at_center, at_neighbor, at_row, at_view]


@pytest.mark.parametrize("width", [1, 7])
@pytest.mark.parametrize("edges", CASES.values(), ids=CASES.keys())
def test_plain_kernels_are_the_formula(edges: Edges, width: int) -> None:
    terms, norm = make_terms(edges, width)
    d, y, messages = formula(terms, norm, edges)
    expected = messages if edges.apart else sums(messages, edges)[0] + 0 * y.sum()  # depends on y without edges, too
    torch.testing.assert_close(twin.message_sums(terms, norm, edges), expected, **EXACT)
    cotangent = torch.randn_like(expected)
    (dy,) = torch.autograd.grad(expected, y, cotangent)
    grads = twin.message_grads(terms, norm, cotangent, edges)
    du = dy * norm.gain[edges.center // (edges.num_atoms // edges.num_views)]
    expected_grads = *sums(du, edges)[:3], sums(dy, edges)[3], sums(dy * d, edges)[3]
    for found, reference in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(found, reference, **EXACT)
    weighted = d if edges.count is None else d * edges.count[:, None]
    at_center, at_neighbor, _, total = sums(weighted, edges)
    moments = twin.moments(terms, norm.mean, edges)
    for found, reference in zip(moments, (at_center, at_neighbor, total, sums(weighted * d, edges)[3]), strict=True):
        torch.testing.assert_close(found, reference, **EXACT)


def every_result(terms: Terms, norm: Norm, cotangent: Tensor, edges: Edges) -> list[Tensor]:
    """All results of the kernels for these tensors."""
    kernel = kernels("cpu", terms.center.dtype)
    return [
        kernel.message_sums(terms, norm, edges),
        *kernel.message_grads(terms, norm, cotangent, edges),
        *kernel.moments(terms, norm.mean, edges),
    ]


@pytest.mark.parametrize("width", [1, 7, 64, 200])
@pytest.mark.parametrize("edges", CASES.values(), ids=CASES.keys())
def test_compiled_kernels_agree_with_the_plain_ones(edges: Edges, width: int) -> None:
    assert kernels("cpu", torch.float32) is numba_cpu
    assert kernels("cpu", torch.float64) is twin
    cotangent = torch.randn(len(edges.row) if edges.apart else edges.num_atoms, width)
    found = every_result(*make_terms(edges, width, torch.float32), cotangent, in_float32(edges))
    expected = every_result(*make_terms(edges, width), cotangent.double(), edges)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), two, **FLOAT32)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = in_float32(CASES["copies and count"])
    terms, norm = make_terms(edges, 100, torch.float32)
    cotangent, results = torch.randn(edges.num_atoms, 100), []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(every_result(terms, norm, cotangent, edges))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_arguments_give_finite_values(dtype: torch.dtype) -> None:
    exact = CASES["three views"]
    edges = exact if dtype == torch.float64 else in_float32(exact)
    found = every_result(*make_terms(edges, 30, dtype, scale=100), torch.ones(edges.num_atoms, 30, dtype=dtype), edges)
    assert found[0].max() > 2000
    assert all(bool(x.isfinite().all()) for x in found)
    expected = twin.message_sums(*make_terms(exact, 30, scale=100), exact)
    # y is up to 10^5, and where its terms cancel, its error is theirs, 10^5 * 6e-8.
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=0.05)


@pytest.mark.parametrize("half", [slice(0, 20), slice(20, 40)], ids=["gate", "core"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_hidden(value: float, half: slice) -> None:
    edges = in_float32(CASES["one view"])
    terms, norm = make_terms(edges, 20, torch.float32)
    terms.neighbor[edges.neighbor[0], half] = value
    out, grads, _, _, _, _, sum_of_u, *_ = every_result(terms, norm, torch.ones(edges.num_atoms, 20), edges)
    assert not sum_of_u[edges.center[0]].isfinite().all()
    if math.isnan(value):  # an infinite argument of the gate has a limit, 0 or 1
        assert not out[edges.center[0]].isfinite().all()
        assert not grads[edges.center[0]].isfinite().all()
