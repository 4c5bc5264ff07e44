"""Figures of a trained predictor show the given data."""

from __future__ import annotations

import io

import matplotlib.font_manager  # noqa: F401 - may build its cache once, outside of any test
import numpy as np
import pandas as pd
import pytest

from crysatom.figures.predictions import MANY, learning_curve, parity_plot, with_unit


def test_a_learning_curve_marks_the_selected_epoch() -> None:
    history = pd.DataFrame({"train/mae": [3.0, 2.0, 1.0], "val/mae": [4.0, 2.5, 2.7], "lr": 0.1})
    figure = learning_curve(history, 1, "eV")
    [axes] = figure.axes
    train, val, mark = axes.lines
    assert train.get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert val.get_xydata().tolist() == [[1, 4], [2, 2.5], [3, 2.7]]
    assert mark.get_xydata().tolist() == [[2, 2.5]]
    assert axes.get_ylabel() == "Mean absolute error (eV)"
    figure.savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize("count", [1, 30, MANY + 1])
def test_a_parity_plot_holds_all_points_on_equal_axes(count: int) -> None:
    target = np.random.default_rng(0).normal(size=count)
    figure = parity_plot(target, target + 0.1, label="Band gap", unit="eV", remark="MAE 0.1 eV")
    [axes] = figure.axes
    assert axes.get_xlim() == axes.get_ylim()
    low, high = axes.get_xlim()
    assert low < target.min()
    assert high > target.max() + 0.1
    assert axes.get_xlabel() == "Band gap, target (eV)"
    [points] = axes.collections
    drawn = len(points.get_offsets()) if count <= MANY else int(points.get_array().sum())
    assert drawn == count
    figure.savefig(io.BytesIO(), format="png")


def test_units_are_written_as_people_do() -> None:
    assert with_unit("Volume", "angstrom^3/atom") == "Volume (Å³/atom)"
    assert with_unit("squares", "") == "squares"
