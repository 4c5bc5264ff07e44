"""Speed of training and prediction on a device, through the loop and the functions that jobs use."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import syncs
import torch
from gpu_data import Labeled
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crysatom.config import PretrainConfig
from crysatom.config import default as pretraining
from crysatom.config.downstream import default
from crysatom.graphs.batch import GraphTensors
from crysatom.graphs.graph import GraphArrays
from crysatom.names import BF16, LOSS, TRAIN, Precision
from crysatom.nn.condensed import condensed
from crysatom.nn.products import products_in
from crysatom.predictors.registry import build_predictor
from crysatom.training.context import Metrics, PlainContext, Save
from crysatom.training.loaders import ResidentLoader
from crysatom.training.loop import Loop
from crysatom.training.normalizer import Normalizer
from crysatom.training.pretrain import build
from crysatom.training.regression import EVALUATION_BATCH, Regression, predictions, spec_of
from crysatom.vectors.controls import one_hot
from crysatom.vectors.elements import element_features

Watch = Callable[[Metrics], bool]
Builder = Callable[[NDArray[np.int64], int, Watch | None], Loop]
"""Returns a loop over some crystals, for at most some epochs."""

WARM_BATCHES = 3
MOST_EPOCHS = 200
FLOAT_BYTES = 4
AIMS = {"cgcnn": 40_000, "pretraining epoch": 10.0}
"""Crystals per second of CGCNN's training, and seconds of a pretraining epoch of the whole pool."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of networks and batches.

    Attributes:
        checked_width: Width of the networks that are compared with the CPU's.
        width: D of the pretraining.
        predictors: Settings of all predictors that replace the defaults.
        pretraining_batches: Crystals in a batch of the pretraining.
        predictor_batches: Crystals in a batch of the predictors.
        copied: Values of the array whose copy measures the memory bandwidth.

    """

    checked_width: int
    width: int
    predictors: dict[str, int]
    pretraining_batches: tuple[int, ...]
    predictor_batches: tuple[int, ...]
    copied: int


FULL = Sizes(48, 200, {}, (128, 1024), (64, 1024), 2**28)
SMALL = Sizes(8, 8, {"width": 8, "hidden_dim": 8, "num_layers": 2}, (8,), (8,), 2**20)


class Unsaved(PlainContext):
    """A plain process that reads and writes no checkpoints, so that epochs are measured alone, without safetensors.

    Args:
        device: Where to compute.

    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(Path("none"), device=str(device))

    def report(self, metrics: Metrics, save: Save) -> None:
        """Do nothing."""

    def keep(self, step: int, save: Save) -> None:
        """Do nothing."""

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield None: every training is new."""
        yield None


class _Types(TorchDispatchMode):
    """Counts the results of operations by type."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.found[result.dtype] += 1
        return result


class Bench:
    """Measurements on one device.

    Args:
        device: Where to compute.
        sizes: Sizes of networks and batches.

    """

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes = device, sizes
        self.bandwidth = 0.0

    def wait(self) -> None:
        """Wait until the device has done all work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def copy_bandwidth(self) -> float:
        """Return bytes per second, read and written, of the best of several copies of a large array."""
        source = torch.zeros(self.sizes.copied, device=self.device)
        target = torch.empty_like(source)
        best = float("inf")
        for _ in range(10):
            self.wait()
            start = time.perf_counter()
            target.copy_(source)
            self.wait()
            best = min(best, time.perf_counter() - start)
        self.bandwidth = 2 * source.nbytes / best
        return self.bandwidth

    def pretraining(
        self, pool: GraphArrays, precision: Precision, batch: int, seconds: float, *, epoch_of: int
    ) -> dict[str, Any]:
        """Measure the pretraining; extrapolate its rate to an epoch of ``epoch_of`` crystals.

        Raises:
            RuntimeError: If a step with bf16 computes nothing in bfloat16, or a step with float32 does.

        """
        config = self._pretraining(batch)
        builder = self._pretrainer(pool, config)
        with products_in(precision):
            with _Types() as types:
                builder(np.arange(batch), 1, None).run()
            if (types.found[torch.bfloat16] > 0) != (precision == BF16):
                raise RuntimeError(f"{types.found[torch.bfloat16]} results of a {precision} step are in bfloat16")
            found = self._training(builder, len(pool.material_ids), batch, seconds)
        epoch = epoch_of / found["crystals_per_second"]
        aim = AIMS["pretraining epoch"]
        found |= {"epoch_crystals": epoch_of, "epoch_seconds_extrapolated": round(epoch, 2)}
        found |= {"epoch_seconds_aim": aim, "aim_met": epoch < aim}
        edges = len(pool.distance) / len(pool.material_ids)
        return found | self._moved(found, 3 * edges, config.encoder.num_layers, config.encoder.embedding_dim)

    def predictor(self, name: str, data: Labeled, batch: int, seconds: float) -> dict[str, Any]:
        """Measure training and prediction of a predictor with its default settings."""
        graphs = condensed(data.tensors(self.device))
        found = self._training(self._trainer(name, data, graphs, batch), graphs.num_crystals, batch, 0.6 * seconds)
        if name in AIMS:
            found |= {"aim": AIMS[name], "aim_met": found["crystals_per_second"] >= AIMS[name]}
            settings = default(name).replace(**self.sizes.predictors).architecture
            edges = len(graphs.distance) / graphs.num_crystals
            found |= self._moved(found, edges, settings.num_layers, settings.width)
        model = self._regression(name, data)
        batch = max(batch, EVALUATION_BATCH)
        rates: list[float] = []
        count = batch  # the first pass warms up and shows how many crystals fit into the time
        end = time.perf_counter() + 0.3 * seconds
        with torch.no_grad():
            while not rates or time.perf_counter() < end:
                loader = self._loader(graphs, data.arrays, np.arange(graphs.num_crystals)[:count], batch, data.targets)
                start = time.perf_counter()
                _, values = predictions(model, loader)  # ends with a copy to the host
                rates.append(len(values) / (time.perf_counter() - start))
                count = max(batch, int(rates[-1] * 0.05 * seconds) // batch * batch)
        return found | {"predicted_crystals_per_second": round(median(rates[1:] or rates), 1)}

    def waits(self, pool: GraphArrays, data: Labeled) -> dict[str, Any]:
        """Count how often a step makes the host wait for the device: pretraining and CGCNN."""
        batch = self.sizes.pretraining_batches[0]
        graphs = condensed(data.tensors(self.device))
        builders = {
            "pretraining": self._pretrainer(pool, self._pretraining(batch)),
            "cgcnn": self._trainer("cgcnn", data, graphs, batch),
        }
        counters = {"estimated": syncs.estimated}
        if self.device.type == "cuda":
            counters["measured"] = syncs.measured
        found: dict[str, Any] = {}
        for name, builder in builders.items():
            for kind, counter in counters.items():
                per_step = _waits_per_step(builder, batch, counter)
                found[f"{name}, {kind}"] = {"per_step": round(sum(per_step.values()), 2), "places": per_step}
        return found

    def _training(self, builder: Builder, num_crystals: int, batch: int, seconds: float) -> dict[str, Any]:
        """Train for about the given time, after a few batches to warm up."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        every = np.random.default_rng(0).permutation(num_crystals)
        warm = every[: WARM_BATCHES * batch]
        first = self._epochs(builder, warm, 0.25 * seconds, most=3)
        count = int(len(warm) / first[-1][0] * seconds / 5)
        chosen = every[: max(len(warm), min(count // batch * batch, num_crystals))]
        epochs = self._epochs(builder, chosen, 0.75 * seconds, most=MOST_EPOCHS)
        measured = epochs[1:] or epochs
        rate = len(chosen) / median(seconds for seconds, _ in measured)
        losses = [metrics[f"{TRAIN}/{LOSS}"] for _, metrics in epochs]
        found = {
            "crystals_per_second": round(rate, 1),
            "batch": batch,
            "crystals": len(chosen),
            "epochs": len(epochs),
            "epoch_seconds": [round(seconds, 4) for seconds, _ in epochs[:10]],
            "wait_for_data_share": round(median(metrics["data_wait_share"] for _, metrics in measured), 3),
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "loss_falls": len(losses) < 2 or losses[-1] < losses[0],
        }
        if self.device.type == "cuda":
            found["peak_memory_gib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)
        return found

    def _epochs(
        self, builder: Builder, crystals: NDArray[np.int64], seconds: float, most: int
    ) -> list[tuple[float, Metrics]]:
        """Train; return wall-clock seconds and metrics of each epoch."""
        found: list[tuple[float, Metrics]] = []
        clock = [0.0]

        def watch(metrics: Metrics) -> bool:
            self.wait()
            now = time.perf_counter()
            found.append((now - clock[0], dict(metrics)))
            clock[0] = now
            return now > end

        loop = builder(crystals, most, watch)
        self.wait()
        clock[0] = time.perf_counter()
        end = clock[0] + seconds
        loop.run()
        return found

    def _moved(self, found: dict[str, Any], edges: float, layers: int, width: int) -> dict[str, Any]:
        """Return the memory traffic of the convolutions' edges, as a share of the copy bandwidth.

        Per layer and edge: the rows of the neighbor and of the distance are read in the forward and in the backward
        pass, and their gradients are written: 6 rows of 2 D float32. All else is per atom or per distance, or stays in
        registers in a fused kernel. Rows that the cache holds are counted too, so a share above 1 is possible.
        """
        bytes_per_crystal = layers * edges * 6 * 2 * width * FLOAT_BYTES
        rate = bytes_per_crystal * found["crystals_per_second"]
        share = round(rate / self.bandwidth, 3) if self.bandwidth else None
        return {"edges_per_crystal": round(edges, 1), "edge_gb_per_s": round(rate / 1e9, 2), "bandwidth_share": share}

    def _pretraining(self, batch: int) -> PretrainConfig:
        return pretraining().replace(
            embedding_dim=self.sizes.width, batch_size=batch, schedule="constant", lr=1e-3, num_workers=0
        )

    def _pretrainer(self, pool: GraphArrays, config: PretrainConfig) -> Builder:
        tensors = GraphTensors.of(pool).to(self.device)

        def builder(crystals: NDArray[np.int64], epochs: int, watch: Watch | None) -> Loop:
            loader = self._loader(tensors, pool, crystals, config.optimization.batch_size)
            model = build(config, element_features(config.encoder.node_features)).to(self.device)
            optimization = config.replace(epochs=epochs).optimization
            return Loop(model, loader, None, optimization, Unsaved(self.device), watch=watch)

        return builder

    def _trainer(self, name: str, data: Labeled, graphs: GraphTensors, batch: int) -> Builder:
        def builder(crystals: NDArray[np.int64], epochs: int, watch: Watch | None) -> Loop:
            config = default(name).replace(batch_size=batch, schedule="constant", lr=1e-3, epochs=epochs)
            loader = self._loader(graphs, data.arrays, crystals, batch, data.targets)
            optimizer = config.optimization.optimizer
            context = Unsaved(self.device)
            model = self._regression(name, data)
            return Loop(model, loader, None, config.optimization, context, optimizer=optimizer, watch=watch)

        return builder

    def _regression(self, name: str, data: Labeled) -> Regression:
        config = default(name).replace(**self.sizes.predictors)
        torch.manual_seed(0)
        predictor = build_predictor(spec_of(config), one_hot())
        model = Regression(predictor, Normalizer.of(data.targets), criterion=config.optimization.criterion)
        return model.to(self.device)

    def _loader(
        self,
        tensors: GraphTensors,
        arrays: GraphArrays,
        crystals: NDArray[np.int64],
        batch: int,
        targets: NDArray[np.float64] | None = None,
    ) -> ResidentLoader:
        labels = None if targets is None else torch.from_numpy(targets).to(self.device)
        return ResidentLoader(tensors, crystals, material_ids=arrays.material_ids, batch_size=batch, targets=labels)


def _waits_per_step(
    builder: Builder, batch: int, counter: Callable[[], AbstractContextManager[syncs.Waits]]
) -> dict[str, float]:
    """Return the waits of a step by place: the difference of a long and a short epoch over the number of steps."""
    short, long = 2, 6
    counts = []
    for steps in (short, short, long):  # the first warms up
        loop = builder(np.arange(steps * batch), 1, None)
        with counter() as found:
            loop.run()
        counts.append(found)
    places = {place: (count - counts[1][place]) / (long - short) for place, count in counts[2].items()}
    return {place: round(count, 2) for place, count in sorted(places.items(), key=lambda x: -x[1]) if count > 0}
