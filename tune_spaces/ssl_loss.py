"""Which self-supervised loss suits the auto-encoder best? Those of CrysAtom's Table 10 (arXiv 2409.04737), and none."""

from typing import get_args

from crysatom.config import Choice, SearchSpace
from crysatom.names import SSLLoss


def space() -> SearchSpace:
    """Return one trial per loss; none is stopped early."""
    return SearchSpace(
        objective="pretrain",
        settings={"ssl_loss": Choice(get_args(SSLLoss))},
        fixed={"epochs": 20, "batch_size": 48},
    )
