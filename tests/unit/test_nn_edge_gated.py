"""The blocked edge-gated convolution equals its formula: values, gradients, running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn.edge_gated import EdgeGatedConv
from crysatom.nn.equivalence import Multigraph

NODES, EDGES, WIDTH = 7, 40, 6


def formula(layer: EdgeGatedConv, h: Tensor, e: Tensor, graph: Multigraph) -> tuple[Tensor, Tensor]:
    m = layer.edge_gate(e) + layer.source_gate(h)[graph.source] + layer.target_gate(h)[graph.target]
    gate = torch.sigmoid(m) * graph.copies[:, None]
    messages = gate * layer.source_update(h)[graph.source]
    total, gates = (torch.zeros_like(h).index_add(0, graph.target, rows) for rows in (messages, gate))
    norm = layer.norm_nodes(layer.target_update(h) + total / (gates + layer.EPS), 1, graph.nodes.to(h.dtype))
    return h + F.silu(norm), e if layer.last else e + F.silu(layer.norm_edges(m, 1, graph.edges.to(h.dtype)))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("elements", [5, 64, 10_000])
def test_pieces_of_any_size_give_what_the_formula_gives(
    elements: int, training: bool, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crysatom.nn.edges.CACHE_ELEMENTS", elements)
    graph = Multigraph(
        source=torch.randint(NODES, (EDGES,)),
        target=torch.randint(NODES - 1, (EDGES,)).sort().values,  # no edge arrives at the last node
        nodes=torch.randint(1, 4, (NODES,)),
        edges=torch.randint(1, 5, (EDGES,)),
        copies=torch.randint(1, 3, (EDGES,)),
    )
    layer = EdgeGatedConv(WIDTH, last=last).double().train(training)
    for parameter in layer.parameters():
        parameter.data = torch.randn_like(parameter)
    nodes, edges = torch.randn(NODES, WIDTH).double(), torch.randn(EDGES, WIDTH).double()
    results = []
    for model, compute in ((layer, EdgeGatedConv.__call__), (copy.deepcopy(layer), formula)):
        h, e = nodes.clone().requires_grad_(), edges.clone().requires_grad_()
        new_h, new_e = compute(model, h, e, graph)
        (
            (new_h * torch.linspace(-1, 1, WIDTH)).sum().square() + (new_e.square().sum(1) * torch.arange(EDGES)).sum()
        ).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append([new_h, new_e, h.grad, e.grad, *gradients, *model.buffers()])
    assert len(results[0]) == len(results[1]) == (20 if last else 22)
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
