"""The object that ``mlflow.pyfunc.load_model`` returns for our models, and that ``mlflow models serve`` calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.pyfunc.model import PythonModel

from crysatom.config import Limits
from crysatom.crystals.quarantine import Reason, Rejected
from crysatom.crystals.record import Record, to_batch
from crysatom.crystals.sources.base import rejected
from crysatom.crystals.sources.records import to_raw
from crysatom.models.inference import Ensemble, open_model
from crysatom.names import DETAIL, FLAGS, PREDICTION, PROBLEM, UNIT, VALUE


class ServedModel(PythonModel):
    """Predicts crystals given as the text of a CIF or as a dictionary from ``Structure.as_dict()``.

    Args:
        folder: Folder of the model.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load_context(self, context: Any) -> None:  # noqa: ARG002 - MLflow's signature
        """Read the model; its files contain no code."""
        self.ensemble = Ensemble((open_model(self.folder),), Limits())

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """Return the prediction for each crystal, or why there is none.

        Args:
            context: Not used.
            model_input: A list, a column, or a table with one column of crystals; or a single crystal.

            params: Not used.

        Returns:
            ``value`` (NaN if there is none), ``unit``, ``problem`` (empty if none) and ``flags`` (reasons to distrust
            the value; empty if none), in order and, for a column or a table, with its index.

        Raises:
            ValueError: If it is a table of several columns.

        """
        crystals, index = _crystals(model_input)
        records = [_record(crystal, number) for number, crystal in enumerate(crystals)]
        outcome = self.ensemble.predict_records(to_batch(records))
        values = [float("nan") if value is None else value[0] for value in outcome[PREDICTION].to_pylist()]
        problems, flags = ([text or "" for text in outcome[name].to_pylist()] for name in (DETAIL, FLAGS))
        unit = self.ensemble.models[0].unit
        columns = {VALUE: pd.Series(values, dtype=float), UNIT: unit, PROBLEM: problems, FLAGS: flags}
        return pd.DataFrame(columns).set_axis(index)


def _crystals(given: Any) -> tuple[list[Any], Any]:
    """Return the crystals, and the index of the result."""
    if isinstance(given, pd.DataFrame):
        if given.shape[1] != 1:
            raise ValueError(
                f"a table of {given.shape[1]} columns; give the one column that holds the crystals: their CIFs, or "
                "dictionaries from Structure.as_dict()"
            )
        given = given.iloc[:, 0]
    if isinstance(given, pd.Series):
        return given.to_list(), given.index
    crystals = [given] if isinstance(given, str | Mapping) else list(given)
    return crystals, pd.RangeIndex(len(crystals))


def _record(crystal: Any, number: int) -> Record | Rejected:
    name = f"crystal {number}"
    if isinstance(crystal, str):
        return Record(material_id=name, source=name, format="cif", content=crystal.encode())
    if isinstance(crystal, Mapping):
        return to_raw(dict(crystal), name, name)
    message = f"a {type(crystal).__name__} is neither the text of a CIF nor a dictionary from Structure.as_dict()"
    return rejected(Reason.UNREADABLE, message, material_id=name, source=name)
