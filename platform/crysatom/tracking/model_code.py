"""The code of a model in MLflow, which runs a copy of this file in the model's folder to load the model."""

from pathlib import Path

from mlflow.models import set_model

from crysatom.tracking.served import ServedModel

set_model(ServedModel(Path(__file__).parent))
