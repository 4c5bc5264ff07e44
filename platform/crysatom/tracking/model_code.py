"""Code of a model in MLflow, which copies this file into the model's folder and runs it to load the model."""

from pathlib import Path

from mlflow.models import set_model

from crysatom.tracking.served import ServedModel

set_model(ServedModel(Path(__file__).parent))
