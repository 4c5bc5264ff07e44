"""Settings of a predictor's training."""

from crysatom.config import Choice, LogUniform, SearchSpace


def space() -> SearchSpace:
    """Return random trials; the worse half is stopped at each evaluation."""
    return SearchSpace(
        objective="downstream",
        settings={
            "lr": LogUniform(3e-4, 3e-2),
            "width": Choice((32, 64, 128)),
            "schedule": Choice(("one_cycle", "cosine", "constant")),
            "criterion": Choice(("mae", "mse", "huber")),
        },
        fixed={"epochs": 60, "batch_size": 32},
        num_trials=12,
        halving=2,
    )
