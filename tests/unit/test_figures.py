"""Figures have a panel for each term and a label for each element; labels do not overlap."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import matplotlib.font_manager  # noqa: F401 - may build its cache once, outside of any test
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from crysatom.figures.label_placement import place_labels
from crysatom.figures.pretraining import cross_correlation, loss_curves, vector_map
from crysatom.figures.style import FAMILY_STYLES, ink
from crysatom.names import LOSS_TERMS, SYMBOLS
from crysatom.vectors.elements import element_table
from crysatom.vectors.geometry import principal_components
from crysatom.vectors.table import AtomVectors


def png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def history(epochs: int = 30) -> pd.DataFrame:
    epoch = np.arange(epochs)
    columns = {f"{split}/{term}": 1 + 20 * np.exp(-epoch / 4) for split in ("train", "held_out") for term in LOSS_TERMS}
    return pd.DataFrame({**columns, "train/features": 0.5 - 0.01 * epoch, "held_out/features": 0.5}, index=epoch)


def vectors(count: int = 94) -> AtomVectors:
    rng = np.random.default_rng(3)
    numbers = np.arange(1, count + 1)
    return AtomVectors(atomic_numbers=numbers, vectors=rng.normal(size=(count, 16)).astype(np.float32))


def test_loss_curves_have_a_panel_per_term_and_a_line_per_split() -> None:
    figure = loss_curves(history())
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Total", "Connectivity reconstruction", "Feature reconstruction", "Self-supervised"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2, 2]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "log", "linear", "log"]
    assert png(figure).startswith(b"\x89PNG")


def test_loss_curves_take_what_there_is() -> None:
    without_ssl = history(1).drop(columns=["train/ssl", "held_out/ssl", "held_out/loss"])
    without_ssl["system/cpu"] = 5.0
    figure = loss_curves(without_ssl)
    assert [len(axes.lines) for axes in figure.axes] == [1, 2, 2]
    broken = history()
    broken.loc[29, "train/loss"] = np.nan
    assert png(loss_curves(broken))
    with pytest.raises(ValueError, match="no losses to draw"):
        loss_curves(pd.DataFrame({"system/cpu": [1.0]}))


def test_cross_correlation_says_how_far_it_is_from_identity() -> None:
    matrix = np.full((4, 4), -0.5)
    np.fill_diagonal(matrix, [1, 1, 0.5, 0.5])
    figure = cross_correlation(matrix)
    axes = figure.axes[0]
    assert axes.get_title() == "Diagonal mean 0.750, off-diagonal rms 0.500"
    image = axes.images[0]
    assert image.get_clim() == (-1, 1)
    np.testing.assert_array_equal(image.get_array(), matrix)
    assert len(figure.axes) == 2, "a color bar"
    assert png(figure)
    with pytest.raises(ValueError, match="square"):
        cross_correlation(np.zeros((2, 3)))


def test_vector_map_names_every_element_once_and_no_label_covers_another() -> None:
    figure = vector_map(vectors())
    axes = figure.axes[0]
    texts = [text for text in axes.texts if text.get_text()]
    assert [text.get_text() for text in texts] == list(SYMBOLS[:94])
    png(figure)
    boxes = [text.get_window_extent() for text in texts]
    overlapping = [(i, j) for j in range(len(boxes)) for i in range(j) if boxes[i].overlaps(boxes[j])]
    assert overlapping == []
    assert sum(len(points.get_offsets()) for points in axes.collections) == 94
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == list(FAMILY_STYLES)
    assert "% of variance" in axes.get_xlabel()


def test_vector_map_refuses_what_has_no_plane() -> None:
    with pytest.raises(ValueError, match="at least 3 elements"):
        vector_map(vectors(2))


def test_identical_vectors_still_make_a_map() -> None:
    same = AtomVectors(atomic_numbers=np.array([1, 2, 3]), vectors=np.ones((3, 2), np.float32))
    assert png(vector_map(same))


def test_principal_components_against_the_covariance() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    scores, explained = principal_components(rows, 2)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    np.testing.assert_allclose(scores.var(axis=0, ddof=1), eigenvalues[:2], rtol=1e-12)
    np.testing.assert_allclose(explained, eigenvalues[:2] / eigenvalues.sum(), rtol=1e-12)
    turned, _ = principal_components(rows[::-1], 2)
    np.testing.assert_allclose(turned[::-1], scores, atol=1e-10)


def test_labels_of_coinciding_points_do_not_overlap() -> None:
    points, sizes = np.zeros((12, 2)), np.full((12, 2), [20.0, 10.0])
    centers = place_labels(points, sizes, gap=2)
    offset = np.abs(centers[:, None] - centers[None])
    covered = (offset < [20, 10]).all(axis=2)
    np.fill_diagonal(covered, val=False)
    assert not covered.any()


def test_every_family_has_a_style_of_its_own_and_readable_ink() -> None:
    assert {facts["family"] for facts in element_table().values()} == set(FAMILY_STYLES)
    assert len({style[0] for style in FAMILY_STYLES.values()}) == len(FAMILY_STYLES)
    for color, _ in FAMILY_STYLES.values():
        linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in ink(color)]
        luminance = float(np.dot([0.2126, 0.7152, 0.0722], linear))
        assert 1.05 / (luminance + 0.05) >= 4.5, f"contrast of {to_rgb(color)} on white is below WCAG AA"


def test_figures_need_neither_ray_nor_mlflow_nor_a_display() -> None:
    script = (
        "import sys; import crysatom.figures.pretraining;"
        "assert not {'ray', 'mlflow', 'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    platform = Path(__file__).parents[2] / "platform"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env={"PYTHONPATH": str(platform)})
