"""Content of the maps and tables of the chemistry study."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from crysatom.figures.maps import component_panels, draw_maps, neighbor_panels
from crysatom.names import SYMBOLS
from crysatom.text_tables import cells, latex, markdown
from crysatom.vectors.table import AtomVectors


def vectors(count: int = 89) -> AtomVectors:
    rows = np.random.default_rng(3).normal(size=(count, 16)).astype(np.float32)
    return AtomVectors(atomic_numbers=np.arange(1, count + 1), vectors=rows)


@pytest.mark.parametrize(("fact", "entries"), [("group", 19), ("block", 4), ("period", 7)])
def test_maps_name_every_element_in_each_panel_and_no_label_covers_another(fact: str, entries: int) -> None:
    panels = component_panels(vectors())
    assert [panel.x.partition(" (")[0] for panel in panels] == ["Component 1", "Component 3"]
    figure = draw_maps("title", panels, vectors(), fact)  # type: ignore[arg-type]
    figure.savefig(io.BytesIO(), format="png")
    assert len(figure.legends[0].get_texts()) == entries
    for axes in figure.axes:
        texts = [text for text in axes.texts if text.get_text()]
        assert [text.get_text() for text in texts] == list(SYMBOLS[:89])
        boxes = [text.get_window_extent() for text in texts]
        assert [(i, j) for j in range(len(boxes)) for i in range(j) if boxes[i].overlaps(boxes[j])] == []
        assert sum(len(points.get_offsets()) for points in axes.collections) == 89


@pytest.mark.slow  # importing UMAP compiles it
def test_neighbor_maps_repeat_themselves_and_keep_copies_together() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("umap")
    rows = np.repeat(np.eye(3, 8, dtype=np.float32) * 10, 12, axis=0)
    rows += 0.1 * np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    table = AtomVectors(atomic_numbers=np.arange(1, 37), vectors=rows)
    for panel, again in zip(neighbor_panels(table, 0), neighbor_panels(table, 0), strict=True):
        np.testing.assert_array_equal(panel.positions, again.positions)
        parts = panel.positions.reshape(3, 12, 2)
        own = np.linalg.norm(parts - parts.mean(axis=1, keepdims=True), axis=2).mean()
        centers = parts.mean(axis=1)
        assert min(np.linalg.norm(centers[i] - centers[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > own


def test_tables_of_text() -> None:
    frame = pd.DataFrame([["1_2", "50 %"]], index=pd.Index(["a|b"], name="table"), columns=["x & y", "p"])
    assert markdown(*cells(frame)) == "| table | x & y | p |\n| --- | --- | --- |\n| a\\|b | 1_2 | 50 % |\n"
    written = latex(*cells(frame), caption="R^2")
    assert r"table & x \& y & p \\" in written
    assert r"a|b & 1\_2 & 50 \% \\" in written
    assert r"\caption{R$^2$}" in written
