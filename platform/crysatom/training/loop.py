"""The training loop for pretraining and for property prediction, in a plain process or under Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.config import Optimization
from crysatom.names import HELD_OUT, LOSS, TRAIN, Balancing, Optimizer
from crysatom.training import checkpoints
from crysatom.training.averaging import MovingAverage
from crysatom.training.balance import Balance
from crysatom.training.context import Action, Context, StoppedError
from crysatom.training.epoch_sums import Totals
from crysatom.training.loaders import Loader, SharedLoader
from crysatom.training.micro_batches import MicroBatches
from crysatom.training.schedules import learning_rate

HELD_OUT_EPOCH = -1
"""Held-out crystals are masked alike in every epoch, so that their losses are comparable."""


OPTIMIZERS: dict[Optimizer, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class NonFiniteLossError(RuntimeError):
    """The loss of a batch, or its gradient, is not finite; the weights were not changed."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The epoch whose weights are kept, and early stopping.

    Attributes:
        by: Metric to minimize; empty: keep the last epoch.
        patience: Epochs without improvement after which the training stops; 0: never.

    """

    by: str = ""
    patience: int = 0


class Loop:
    """Trains a model whose forward pass maps ``(batch, epoch)`` to the terms of its loss.

    Args:
        model: Returns a dict with ``loss`` and other scalar terms, equal on all workers; non-scalar entries are for
            ``after_step``.
        train: Training batches.
        held_out: Batches to evaluate after each epoch, or None.
        optimization: Epochs, batches and steps.
        context: Where it runs.
        optimizer: 'adam' adds weight decay to the gradient, 'adamw' applies it to the weights.
        milestones: Epochs before which the 'step' schedule lowers the learning rate.
        selection: Which epoch's weights are kept.
        balance: How workers share a batch.
        max_edges: Edges of a worker's share above which it is computed in parts; 0: never.
        after_step: Called with each batch, the model's output and whether the batch is the first of its epoch (the
            paper's vector extraction).
        extra: More tensors of the training state, by name; saved in checkpoints and restored in place.
        measured: Name of the metrics of ``held_out``.
        watch: Called after each epoch, before its checkpoint, with its metrics, which it may extend; the model then has
            the evaluated weights. Returning True stops the training.

    Raises:
        ValueError: If the epoch is selected by held-out crystals and there are none.

    """

    def __init__(  # noqa: PLR0913 - the parts of a training
        self,
        model: nn.Module,
        train: SharedLoader,
        held_out: Loader | None,
        optimization: Optimization,
        context: Context,
        *,
        optimizer: Optimizer = "adamw",
        milestones: tuple[int, ...] = (),
        selection: Selection = Selection(),
        balance: Balancing = "auto",
        max_edges: int = 0,
        after_step: Callable[[Batch, dict[str, Tensor], bool], None] | None = None,
        extra: dict[str, Tensor] | None = None,
        measured: str = HELD_OUT,
        watch: Callable[[dict[str, float]], bool] | None = None,
    ) -> None:
        if selection.by.startswith(f"{measured}/") and held_out is None:
            raise ValueError(
                "--selection held_out: no crystal is held out by the hash of its id; raise --holdout-fraction, or "
                "choose --selection last"
            )
        self.model, self.train, self.held_out = model, train, held_out
        self.optimization, self.context, self.after_step = optimization, context, after_step
        self.milestones, self.selection, self.balance = milestones, selection, balance
        self.micro_batches = MicroBatches(max_edges)
        self.extra, self.measured, self.watch = extra or {}, measured, watch
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[optimizer](
            self.trainable, lr=optimization.lr, eps=optimization.adam_eps, weight_decay=optimization.weight_decay
        )
        self.average = MovingAverage(model, optimization.ema_decay)
        self.history: list[dict[str, float]] = []
        self.best = math.inf
        self.selected_epoch = optimization.epochs - 1
        self.best_tensors: dict[str, Tensor] = {}
        self.step = 0
        self.totals = Totals()
        """Sums of the current epoch."""
        self.stopping = False

    def run(self) -> list[dict[str, float]]:
        """Train to the end, from the last checkpoint if there is one; leave the selected weights in the model.

        Training ends with the last epoch or when patience is exhausted, which the history in a checkpoint determines.

        Returns:
            The metrics of each epoch.

        Raises:
            NonFiniteLossError: If the loss or the gradient is not finite; the weights are unchanged.
            StoppedError: If the context requests a stop; a checkpoint is written.

        """
        with self.context.checkpoint() as folder:
            if folder is not None:
                self._restore(*checkpoints.load(folder))
        balance = Balance(self.balance, self.train, self.context, self.micro_batches.max_edges)
        wrapped = self.model if self.micro_batches.max_edges else self.context.wrap(self.model)
        stop_requested = False
        while not (stop_requested or self._ended()):
            epoch = len(self.history)
            balance.update(self.model, epoch)
            metrics = {"epoch": float(epoch), **self._train_epoch(wrapped, epoch), **balance.metrics()}
            with self.average.applied():
                if self.held_out is not None:
                    metrics |= self._evaluate(self.held_out)
                self._select(metrics)
                stop_requested = self.watch is not None and self.watch(metrics)
            self.history.append(metrics)
            self.totals = Totals()
            self.context.report(metrics, self._save)
            if self.stopping and not (stop_requested or self._ended()):
                raise StoppedError(f"stopped after epoch {epoch}, as requested")
        self._use_selected()
        return self.history

    def _ended(self) -> bool:
        done, patience = len(self.history), self.selection.patience
        return done >= self.optimization.epochs or 0 < patience < done - self.selected_epoch

    def _train_epoch(self, wrapped: nn.Module, epoch: int) -> dict[str, float]:
        """Train an epoch, or the rest of it after a checkpoint within the epoch."""
        self.model.train()
        self.context.heartbeat()
        totals, steps = self.totals, self.train.num_steps()
        batches = self.train.epoch(epoch, totals.steps)
        start, before = time.perf_counter() - totals.seconds, time.perf_counter()
        while (batch := next(batches, None)) is not None:
            totals.waited += time.perf_counter() - before
            terms = self._step(wrapped, batch, epoch)
            action = totals.add(terms, batch.num_graphs, self.context.next_action())
            self.step += 1
            totals.seconds = time.perf_counter() - start
            if action and totals.steps < steps:
                self._handle(Action(action))
            self.stopping = action == Action.STOP  # after the last step, run() stops once the checkpoint is written
            self.context.heartbeat()
            before = time.perf_counter()
        self.context.stop_watchdog()
        totals.seconds = time.perf_counter() - start
        return totals.means(TRAIN) | {
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": totals.seconds,
            "crystals_per_second": totals.crystals / totals.seconds,
            "data_wait_share": totals.waited / totals.seconds,
        }

    def _handle(self, action: Action) -> None:
        """Do what the context requests after a step."""
        if action == Action.CHECK and not self.context.preemption_pending():
            return
        self.context.keep(self.step, self._save)
        if action == Action.STOP:
            distributed.gather_objects(None)  # barrier: Ray ends all workers with the first, and rank 0 is writing
            raise StoppedError(f"stopped after step {self.totals.steps} of epoch {len(self.history)}, as requested")

    def _step(self, wrapped: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        settings = self.optimization
        steps = self.train.num_steps()
        milestones = [epoch * steps for epoch in self.milestones]
        rate = learning_rate(settings.lr, self.step, settings.epochs * steps, settings.schedule, milestones)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()

        def differentiate(part: Batch) -> dict[str, Tensor]:
            terms: dict[str, Tensor] = wrapped(part, epoch)
            terms[LOSS].backward()
            return {k: v.detach() for k, v in terms.items() if v.ndim == 0 or self.after_step is not None}

        terms = self.micro_batches.train(differentiate, batch, self.trainable)
        norm = nn.utils.clip_grad_norm_(self.trainable, settings.gradient_clip or math.inf)
        self._check_finite({"loss": terms[LOSS], "norm of the gradient": norm}, batch, epoch)
        self.optimizer.step()
        self.average.update()
        if self.after_step is not None:
            self.after_step(batch, terms, self.totals.steps == 0)
        return terms

    @torch.no_grad()
    def _evaluate(self, loader: Loader) -> dict[str, float]:
        self.model.eval()
        totals = Totals()
        for batch in loader.epoch(0):
            totals.add(self.micro_batches.terms(self._scalars, batch), batch.num_graphs)
        return totals.means(self.measured)

    def _scalars(self, part: Batch) -> dict[str, Tensor]:
        return {k: v for k, v in self.model(part, HELD_OUT_EPOCH).items() if v.ndim == 0}

    def _check_finite(self, values: dict[str, Tensor], batch: Batch, epoch: int) -> None:
        """Raise if a value is not finite. On a GPU this is the step's wait for its results, so all are read at once."""
        numbers = torch.stack([value.detach().double() for value in values.values()]).tolist()
        wrong = [
            f"{what} is {number}" for what, number in zip(values, numbers, strict=True) if not math.isfinite(number)
        ]
        if not wrong:
            return
        broken = torch.unique(batch.batch[batch.edge_index[1][~torch.isfinite(batch.distance)]])
        keys = batch.material_key
        parts = distributed.gather_objects((keys[broken].tolist(), keys.tolist()))
        culprits, everyone = ([key for part in kind for key in part] for kind in zip(*parts, strict=True))
        raise NonFiniteLossError(self._describe(wrong[0], epoch, culprits or everyone))

    def _describe(self, problem: str, epoch: int, keys: list[int]) -> str:
        names = self.train.material_ids(keys)
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        batch = self.step - epoch * self.train.num_steps()
        return (
            f"the {problem} in epoch {epoch}, batch {batch}, with crystals {shown}; the weights were not "
            "changed. Look at these crystals, or start a new run with a lower --lr or with --gradient-clip."
        )

    def _select(self, metrics: dict[str, float]) -> None:
        if self.selection.by and metrics[self.selection.by] < self.best:
            self.best, self.selected_epoch = metrics[self.selection.by], int(metrics["epoch"])
            self.best_tensors = {k: v.clone() for k, v in self._state_tensors().items()}

    def _state_tensors(self) -> dict[str, Tensor]:
        return {f"model/{k}": v for k, v in self.model.state_dict().items()} | {
            f"extra/{k}": v for k, v in self.extra.items()
        }

    def _use_selected(self) -> None:
        if self.best_tensors:
            self._load_state(self.best_tensors)
        else:
            self.average.apply()
        self.model.eval()

    def _load_state(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")})
        for name, tensor in self.extra.items():
            tensor.copy_(tensors[f"extra/{name}"])

    def _save(self, folder: Any) -> None:
        groups = {
            "state": self._state_tensors(),
            "optimizer": checkpoints.optimizer_tensors(self.optimizer, self.model),
            "best": self.best_tensors,
            "average": self.average.tensors,
            "totals": self.totals.sums,
        }
        state = {
            "epoch": len(self.history),
            "step": self.step,
            "best": self.best,
            "selected_epoch": self.selected_epoch,
            "history": self.history,
            "totals": self.totals.numbers(),
        }
        checkpoints.save(folder, {k: v for k, v in groups.items() if v}, state)

    def _restore(self, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        self._load_state(groups["state"])
        checkpoints.load_optimizer(self.optimizer, self.model, groups.get("optimizer", {}))
        self.best_tensors = groups.get("best", {})
        self.average.load(groups.get("average", {}))
        self.step, self.history = state["step"], state["history"]
        self.best, self.selected_epoch = state["best"], state["selected_epoch"]
        sums = {name: value.to(self.context.device) for name, value in groups.get("totals", {}).items()}
        self.totals = Totals(sums=sums, **state.get("totals", {}))
