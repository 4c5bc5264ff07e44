"""Cost of a run: time, memory and size, from its journal."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from crysatom.names import NUM_PARAMETERS, SYSTEM, TEST_SECONDS
from crysatom.tracking.fields import HARDWARE
from crysatom.tracking.journal import Journal
from crysatom.tracking.runs import JOURNAL_FOLDER

BYTES_PER_PARAMETER = 4
_SECONDS = "seconds"
_MEMORY = (f"{SYSTEM}process_memory_megabytes", f"{SYSTEM}gpu_memory_usage_megabytes")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one run; NaN if its version did not measure it.

    Attributes:
        epochs: Number of trained epochs.
        seconds_per_epoch: Median time of training and validation.
        training_seconds: Time of all epochs.
        test_seconds: Time to predict the test crystals, with graphs in memory.
        megabytes: Size of the trained parameters, four bytes each.
        memory_megabytes: Largest memory of the process, or of its GPU, at the end of an epoch.
        hardware: Hardware in one line.

    """

    epochs: int
    seconds_per_epoch: float
    training_seconds: float
    test_seconds: float
    megabytes: float
    memory_megabytes: float
    hardware: str


def cost(folder: Path) -> Cost:
    """Return the cost of the run in a folder.

    Raises:
        ValueError: If its journal has no epoch.

    """
    records = [record for record, _ in Journal(folder / JOURNAL_FOLDER).records()]
    values = [record["values"] for record in records if "values" in record]
    epochs = [v[_SECONDS] for v in values if _SECONDS in v]
    if not epochs:
        raise ValueError(f"{folder}: the journal of the run has no epoch; its costs are not known")
    hardware = [record["tags"][HARDWARE] for record in records if HARDWARE in record.get("tags", {})]
    parameters, memory = _all(values, NUM_PARAMETERS), [value for name in _MEMORY for value in _all(values, name)]
    nan = float("nan")
    return Cost(
        epochs=len(epochs),
        seconds_per_epoch=statistics.median(epochs),
        training_seconds=sum(epochs),
        test_seconds=next(iter(_all(values, TEST_SECONDS)), nan),
        megabytes=parameters[0] * BYTES_PER_PARAMETER / 1e6 if parameters else nan,
        memory_megabytes=max(memory, default=nan),
        hardware=hardware[-1] if hardware else "not noted",
    )


def _all(values: list[dict[str, float]], name: str) -> list[float]:
    return [v[name] for v in values if name in v]
