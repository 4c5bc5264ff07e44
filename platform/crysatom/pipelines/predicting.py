"""The pipeline that predicts new crystals: models, crystals, a file of predictions and one of rejected crystals."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from crysatom.config import PredictConfig
from crysatom.config.terminal import one_line
from crysatom.crystals.csv_files import csv_line
from crysatom.crystals.ingest import PROGRESS_SECONDS, ReadCount
from crysatom.crystals.notes import NoteCounts
from crysatom.crystals.quarantine import QUARANTINE_SCHEMA, Rejected, describe_reasons
from crysatom.crystals.record import Record
from crysatom.crystals.rejections import Rejections, streamed
from crysatom.crystals.sources import Source, open_source
from crysatom.models.inference import Ensemble, SavedModel, open_model
from crysatom.names import (
    ALL_FLAGS,
    FLAGS,
    MATERIAL_ID,
    NOTE,
    PREDICTION,
    PROPERTY,
    REASON,
    SOURCE,
    SPREAD,
    UNIT,
    UNKNOWN_TRAINING,
    UNTRAINED_ELEMENTS,
)
from crysatom.nn.products import slow_precision
from crysatom.runs.lifecycle import require_gpu, start_ray
from crysatom.runs.paths import find, resolve
from crysatom.tracking.models import fetch_model, is_in_mlflow
from crysatom.writing import replaced

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PredictReport:
    """Results of a prediction.

    Attributes:
        models: Names of the models, in the order of their columns.
        property: Predicted property.
        unit: Unit of the predictions; empty if unknown.
        predicted: Number of predictions.
        rejected: Number of rejected crystals.
        reasons: Number of rejected crystals for each reason, most frequent first.
        first_rejected: The first rows of the quarantine.
        flags: Number of predictions with each flag that occurs, see :data:`crysatom.names.ALL_FLAGS`.
        notes: Number of crystals with each kind of reader's note; see docs/ingest.md.
        read: Records in the inputs; ``read == predicted + rejected``.
        seconds: From the first record read to the last row written, including the start of the workers.
        out: File of the predictions.
        quarantine: File of the rejected crystals; None, and no file, if nothing was rejected.

    """

    models: tuple[str, ...]
    property: str
    unit: str
    predicted: int
    rejected: int
    reasons: dict[str, int]
    first_rejected: tuple[Rejected, ...]
    flags: dict[str, int]
    notes: dict[str, int]
    read: int
    seconds: float
    out: Path
    quarantine: Path | None


def run(config: PredictConfig) -> PredictReport:
    """Predict all crystals of the inputs, in order.

    Raises:
        ValueError: If a model or an input cannot be opened, or the models do not match.
        OSError: If the results cannot be written; earlier results are then kept.

    """
    if config.workers.use_gpu and not config.workers.num_workers:
        require_gpu()
    source = _inputs(config.inputs)
    models = tuple(_model(name, config.tracking.tracking_uri) for name in config.model)
    if config.precision != "training":
        models = tuple(dataclasses.replace(model, precision=config.precision) for model in models)
    for warning in {slow_precision(model.precision, "cuda" if config.workers.use_gpu else "cpu") for model in models}:
        if warning:
            logger.warning(warning.removeprefix("warning: "))
    ensemble = Ensemble(models, config.limits)
    for model in models:
        if not model.records_training():
            logger.warning(
                "%s does not record all elements and ranges of its training crystals: its predictions are flagged %s",
                model.name,
                UNKNOWN_TRAINING,
            )
    out = resolve(config.out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; --out must name a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    logger.info("predicting %s%s ...", models[0].property, f" in {models[0].unit}" if models[0].unit else "")
    read, started = ReadCount(), time.perf_counter()
    quarantine = out.with_name(f"{out.stem}.quarantine.csv")
    with replaced(out) as temporary:  # written last, so that an earlier error keeps the old predictions
        with _quarantine_csv(quarantine) as rejections, temporary.open("w", newline="", encoding="utf-8") as file:
            sorter = _Sorter(models, source.total, read, rejections)
            file.write(csv_line(_columns(models)))
            for outcome in _predict_all(config, ensemble, sorter.with_progress(read.batches(source))):
                file.writelines(map(csv_line, sorter.predicted(outcome)))
        assert read.count == rejections.accepted + rejections.count, "a crystal was lost"
    return PredictReport(
        models=config.model,
        property=models[0].property,
        unit=models[0].unit,
        predicted=rejections.accepted,
        rejected=rejections.count,
        reasons=rejections.reasons,
        first_rejected=tuple(rejections.first),
        flags={flag: sorter.flags[flag] for flag in ALL_FLAGS if sorter.flags[flag]},
        notes=sorter.notes.kinds,
        read=read.count,
        seconds=time.perf_counter() - started,
        out=out,
        quarantine=quarantine if rejections.count else None,
    )


def describe(report: PredictReport) -> str:
    """Return the summary for the end of the job."""
    counts = f"read {report.read:,} = predicted {report.predicted:,} + rejected {report.rejected:,}"
    speed = f"in {report.seconds:.1f} s, {report.read / report.seconds:,.0f} crystals/s"
    lines = [f"{counts}, {speed}", f"predictions: {report.out}"]
    if len(report.models) > 1:
        lines += [f"  {PREDICTION}_{k}: {name}" for k, name in enumerate(report.models, start=1)]
    if report.flags:
        lines += [f"unreliable predictions, by column {FLAGS}:", describe_reasons(report.flags)]
    if report.notes:
        lines += ["notes of the reader:", describe_reasons(report.notes)]
    if report.quarantine:
        lines.append(f"quarantine:  {report.quarantine} (id, source, reason and advice for each)")
        lines.append(describe_reasons(report.reasons))
        named = report.first_rejected
        lines.append("rejected:" if len(named) == report.rejected else f"the first {len(named)} rejected:")
        lines += [f"  {one_line(rejected.material_id)}: {one_line(rejected.detail)}" for rejected in named]
    return "\n".join(lines)


def _inputs(names: Sequence[str]) -> Source:
    """Return all inputs as one source, in the given order."""
    sources = [open_source(str(find(name))) for name in names]
    totals = [source.total for source in sources]
    return Source(
        name=", ".join(names),
        records=lambda: chain.from_iterable(map(_records, sources)),
        total=None if None in totals else sum(total or 0 for total in totals),
    )


def _records(source: Source) -> Iterator[Record | Rejected]:
    number = 0
    for number, record in enumerate(source.records(), start=1):  # noqa: B007 - counted to its end
        yield record
    if not number:
        logger.warning("%s: it contains no crystal", source.name)


def _model(name: str, tracking_uri: str) -> SavedModel:
    if find(name).exists():
        return open_model(find(name), name)
    if is_in_mlflow(name):
        return fetch_model(name, tracking_uri)
    raise ValueError(
        f"model {name!r} does not exist; name the folder of a run or of its model, runs:/ID, models:/NAME/VERSION, "
        "models:/NAME@ALIAS, or a .pth.tar of CGCNN's code"
    )


def _predict_all(config: PredictConfig, ensemble: Ensemble, batches: Iterator[pa.Table]) -> Iterable[pa.Table]:
    """Yield outcomes in order; a single batch is predicted here, which is faster than starting a cluster."""
    first = list(islice(batches, 2))
    batches = chain(first, batches)
    if config.workers.num_workers > 0 and len(first) > 1:
        from crysatom.cluster.predict import predict_on_cluster

        start_ray(config.workers.num_workers)
        return predict_on_cluster(config, ensemble, batches)
    device = "cuda" if config.workers.use_gpu and torch.cuda.is_available() else "cpu"
    if config.workers.use_gpu and device == "cpu":  # the cluster's workers may have GPUs
        logger.info("too few crystals for the cluster, and no CUDA device here: they are predicted on the CPU")
    torch.set_num_threads(config.workers.threads_per_worker)
    return map(ensemble.to(device).predict_records, batches)


def _columns(models: Sequence[SavedModel]) -> list[str]:
    """Return the header; with several models, the prediction is their mean and is followed by each model's."""
    each = [SPREAD, *(f"{PREDICTION}_{k}" for k in range(1, len(models) + 1))] if len(models) > 1 else []
    return [MATERIAL_ID, SOURCE, PREDICTION, *each, PROPERTY, UNIT, UNTRAINED_ELEMENTS, FLAGS]


class _Sorter:
    """Makes rows of predictions, writes rejected crystals, and logs progress.

    Ids need not be unique: files in several folders often have the same names, and rows give the source.
    """

    def __init__(
        self, models: Sequence[SavedModel], total: int | None, read: ReadCount, rejections: Rejections
    ) -> None:
        self.flags: Counter[str] = Counter()
        self.notes = NoteCounts()
        self._rejections = rejections
        self._what = (models[0].property, models[0].unit)
        self._total = total
        self._read = read
        self._started = self._told = time.monotonic()

    def with_progress(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Yield batches and log progress: a cluster reads for minutes before the first prediction."""
        for batch in batches:
            self._log_progress()
            yield batch

    def predicted(self, outcome: pa.Table) -> Iterator[list[Any]]:
        for row in outcome.to_pylist():
            if row[REASON] is not None:
                fields = {name: row[name] for name in QUARANTINE_SCHEMA.names}
                self._rejections.add(Rejected(**fields))
            else:
                self._rejections.accepted += 1
                where = (row[MATERIAL_ID], row[SOURCE])
                self.flags.update(filter(None, row[FLAGS].split(";")))
                self.notes.observe(filter(None, [row[NOTE]]))
                yield [*where, *_numbers(row[PREDICTION]), *self._what, row[UNTRAINED_ELEMENTS], row[FLAGS]]
        self._log_progress()

    def _log_progress(self) -> None:
        now, predicted, rejected = time.monotonic(), self._rejections.accepted, self._rejections.count
        if now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        of_all = f" of {self._total:,}" if self._total else ""
        line = f"{self._read.count:,}{of_all} read, {predicted:,} predicted, {rejected:,} rejected"
        if done := predicted + rejected:
            rate = done / (now - self._started)
            line += f", {rate:,.0f} crystals/s" + (f", {(self._total - done) / rate:.0f} s left" if self._total else "")
        logger.info("predict: %s", line)


def _numbers(values: Sequence[float]) -> list[float]:
    """Return the prediction and, with several models, the sample standard deviation and each model's prediction."""
    if len(values) == 1:
        return list(values)
    return [float(np.mean(values)), float(np.std(values, ddof=1)), *values]


@contextmanager
def _quarantine_csv(path: Path) -> Iterator[Rejections]:
    """Yield the writer of the quarantine; if nothing is rejected, remove the file, also that of an earlier run."""
    with replaced(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_line(QUARANTINE_SCHEMA.names))
        with streamed(lambda rows: file.writelines(csv_line(astuple(row)) for row in rows)) as rejections:
            yield rejections
    if not rejections.count:
        path.unlink()
