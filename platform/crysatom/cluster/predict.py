"""Prediction on a Ray cluster: workers that hold the models in memory return rows in order."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from crysatom.cluster.ingest import windows
from crysatom.cluster.resources import require, warn_if_late
from crysatom.config import PredictConfig
from crysatom.models.inference import Ensemble

MAX_DEATHS = 3
"""Limit on restarts of a worker, and on retries of a batch. Ray has none: a batch that kills its worker would loop."""


def predict_on_cluster(config: PredictConfig, ensemble: Ensemble, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Predict batches of raw records as :meth:`Ensemble.predict_records` does, on the configured workers.

    The driver reads files and models, so workers need not see them. Workers start, and receive the models, once per
    window of :data:`crysatom.cluster.ingest.WINDOW_BYTES` of raw records: about 100,000 CIFs.

    Raises:
        ValueError: If Ray runs only on this machine and it has too little for the workers.
        RuntimeError: If a batch kills its worker repeatedly.

    """
    wanted = {"CPU": float(config.workers.threads_per_worker)} | ({"GPU": 1.0} if config.workers.use_gpu else {})
    for resource, amount in wanted.items():
        require(resource, config.workers.num_workers, amount)
    models = ray.put(ensemble)
    for window in windows(batches):
        dataset = ray.data.from_arrow(window)
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        predicted = dataset.map_batches(
            _Worker,
            fn_constructor_args=(
                models,
                config.workers.threads_per_worker,
                "cuda" if config.workers.use_gpu else "cpu",
            ),
            compute=ActorPoolStrategy(size=config.workers.num_workers),
            num_cpus=wanted["CPU"],
            num_gpus=wanted.get("GPU"),
            batch_format="pyarrow",
            batch_size=None,
            max_restarts=MAX_DEATHS,
            max_task_retries=MAX_DEATHS,
        )
        try:
            with warn_if_late(config.workers.num_workers, wanted) as in_time:
                for batch in predicted.iter_batches(batch_format="pyarrow", batch_size=None):
                    in_time()
                    yield batch
        except RayError as error:
            raise RuntimeError(
                f"prediction workers died more than {MAX_DEATHS} times, the last with: {str(error).splitlines()[0]}; "
                "if memory ran out, use fewer --num-workers or a smaller --max-atoms"
            ) from error


class _Worker:
    """Holds the models for as long as there are batches."""

    def __init__(self, models: ray.ObjectRef[Ensemble], threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self.ensemble = ray.get(models).to(device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self.ensemble.predict_records(batch)
