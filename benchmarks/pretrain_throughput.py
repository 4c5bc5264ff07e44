"""Crystals per second of pretraining: the published procedure and ours in turn, on the same crystals.

Cold includes everything from CIF files on; warm is a training epoch on existing graphs, as in most epochs of a run. The
published procedure is always cold: it parses files and searches neighbors in every epoch. Our side is a training as
``jobs/pretrain.py`` runs it with ``--num-workers 0``. A round is two epochs of ours with a batch of the published
procedure between them. Our losses must be those of the job.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import bench
import numpy as np
import published_procedure as published
import torch
from bench import Benchmark, Run, Setting, Timing, timed
from driving import JOB_TOLERANCE, check_training, drive, epochs_for, is_turn, quiet, rounds_of
from samples import sample, write_cifs

from crysatom.config import FeaturizeConfig, IngestConfig, PretrainConfig, default, paper
from crysatom.crystals.ingest import ingest_plain
from crysatom.graphs.featurize import featurize_plain
from crysatom.names import LOSS, TRAIN
from crysatom.pipelines import pretraining
from crysatom.training.context import Context, Metrics
from crysatom.training.pretrain import PretrainOutcome, pretrain, resident_data
from crysatom.vectors.published import cgcnn_bits

RECIPES = {"default": default, "paper": paper}

CEILING = (
    400.0,
    (
        "our step needs some 120 MFlop of matrix products per crystal, 0.8 ms at 150 GFlop/s, twice the speed of a "
        "thread of an AMD EPYC; the published procedure takes 130 to 160 ms: 200, doubled."
    ),
)


class PublishedRun:
    """The published procedure, one batch at a time."""

    def __init__(self, files: list[Path], dim: int, batch_size: int) -> None:
        torch.manual_seed(0)
        self.files, self.batch_size, self.at = files, batch_size, 0
        bits = cgcnn_bits()
        self.elements = {int(z): bits.vectors[k].astype(np.float32) for k, z in enumerate(bits.atomic_numbers)}
        self.model = published.Reference(dim)
        self.optimizer = published.make_optimizer(self.model)
        self.rng = np.random.default_rng(0)

    def batch(self, run: Run) -> tuple[Timing, Timing]:
        """Load one batch and train on it; return both times."""
        files = self.files[self.at : self.at + self.batch_size]
        self.at = (self.at + self.batch_size) % (len(self.files) - self.batch_size + 1)
        loading, batch = timed(
            len(files), lambda: published.collate([published.load_crystal(f, self.elements, self.rng) for f in files])
        )
        step, terms = timed(len(files), lambda: published.train_step(self.model, self.optimizer, batch))
        finite = bool(np.isfinite(list(terms.values())).all())
        run.check("the published procedure's losses are finite", finite, f"{terms}")
        count = len(batch.ranges)
        run.check("its batches are whole", len(files) == count == self.batch_size, f"a batch of {count} crystals")
        return loading, step


def whole(loading: Timing, step: Timing) -> Timing:
    """Return the sum of both times, for the same crystals."""
    return Timing(step.crystals, loading.wall + step.wall, loading.cpu + step.cpu)


def first_epoch(once: Timing, warm: Timing) -> Timing:
    """Return the time from CIF files to the end of the first epoch: what is done once, and an epoch."""
    share = once.crystals / warm.crystals
    return Timing(once.crystals, once.wall + share * warm.wall, once.cpu + share * warm.cpu)


def train(config: PretrainConfig, shards: Path, context: Context) -> PretrainOutcome:
    """Pretrain as the job's worker does."""
    return pretrain(config, resident_data(config, shards, context.device), context)


def job_losses(config: PretrainConfig, shards: Path, folder: Path) -> list[float]:
    """Return the loss of each epoch of the job."""
    place = {"data": str(shards), "out": str(folder), "tracking_uri": f"sqlite:///{folder}/mlflow.db", "register": ""}
    history = quiet(lambda: pretraining.run(config.replace(**place))).history
    return [float(loss) for loss in history[f"{TRAIN}/{LOSS}"]]


def measure(run: Run) -> None:
    """Measure both sides in alternating rounds."""
    warnings.simplefilter("ignore")  # pymatgen's, about rounded coordinates
    s, folder = run.settings, run.folder
    torch.set_num_threads(s.threads)
    files = write_cifs(sample(run.table, s.crystals, folder / "sample.parquet"), folder / "cif")
    source = IngestConfig.of(source=str(folder / "cif"), out=str(folder / "table"))
    ingest, report = timed(len(files), lambda: ingest_plain(source))
    run.check(
        "every crystal was ingested", report.accepted == s.crystals, f"{report.accepted} of {s.crystals} crystals"
    )
    theirs = PublishedRun(files, s.dim, s.batch_size)
    for name in s.recipes:
        config = RECIPES[name]().replace(
            embedding_dim=s.dim,
            holdout_fraction=0.0,
            selection="last",
            batch_size=s.batch_size,
            epochs=epochs_for(s.rounds),
            num_workers=0,
            threads_per_worker=s.threads,
        )
        graph = {"ties": config.graph.ties, "pad_short_lists": config.graph.pad_short_lists}
        job = FeaturizeConfig.of(data=str(report.table), out=str(folder / f"shards-{name}"), **graph)
        featurize, made = timed(len(files), partial(featurize_plain, job))
        run.check("every crystal has a graph", made.accepted == s.crystals, f"{made.accepted} of {s.crystals}")
        once = Timing(len(files), ingest.wall + featurize.wall, ingest.cpu + featurize.cpu)
        in_turn(run, name, config, theirs, once)
    run.figure("CIFs to table", [ingest.rate], "crystals/s")


def in_turn(run: Run, name: str, config: PretrainConfig, theirs: PublishedRun, once: Timing) -> None:
    """Train with one recipe; run a published batch in each round, so that both see the same load of the machine."""
    shards = run.folder / f"shards-{name}"
    batches: list[tuple[Timing, Timing]] = []

    def after(metrics: Metrics) -> None:
        if is_turn(metrics):
            batches.append(theirs.batch(run))
            ours = metrics["crystals_per_second"]
            print(f"{name}: published {whole(*batches[-1]).rate:.2f}, ours {ours:.1f} crystals/s", flush=True)

    outcome, epochs = drive(partial(train, config, shards), config.workers, run.folder / f"run-{name}", after)
    check_training(run, outcome.history, epochs, once.crystals, config.optimization, f"{TRAIN}/{LOSS}")
    losses = [metrics[f"{TRAIN}/{LOSS}"] for metrics in outcome.history]
    run.equal("our losses are those of the job", losses, job_losses(config, shards, run.folder), JOB_TOLERANCE)
    published_rounds, ours = [whole(*batch) for batch in batches], rounds_of(epochs)
    cold = [first_epoch(once, timing) for timing in ours]
    if name == "default":
        run.timings("published: loading", [loading for loading, _ in batches])
        run.timings("published: step", [step for _, step in batches])
        run.timings("published: whole", published_rounds)
    run.timings(f"ours, recipe {name}, warm epoch", ours)
    run.timings(f"ours, recipe {name}, first epoch from CIFs on", cold)
    run.ratios(f"ratio, recipe {name}, warm", published_rounds, ours, CEILING)
    run.ratios(f"ratio, recipe {name}, from CIFs on", published_rounds, cold, CEILING)
    run.facts[f"loss, recipe {name}, first and last epoch"] = [losses[0], losses[-1]]


BENCHMARK = Benchmark(
    name="pretrain_throughput",
    about=str(__doc__),
    measures=("training", "ssl", "nn", "graphs", "vectors/elements.py", "runs/lifecycle.py", "distributed.py"),
    settings={
        "crystals": Setting(256, 24),
        "dim": Setting(200, 16, "embedding dimension"),
        "batch_size": Setting(128, 12),
        "rounds": Setting(3, 1),
        "recipes": Setting(("default", "paper"), ("default",)),
        "threads": Setting(1, 1),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
