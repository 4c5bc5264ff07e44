"""Learn element vectors from crystals: ``python jobs/pretrain.py --data crystals.parquet --num-workers 2``."""

import logging
import sys

import bootstrap  # noqa: F401 - makes crysatom importable

from crysatom.config import PretrainConfig, parse
from crysatom.pipelines.pretraining import describe, run


def main() -> None:
    """Run the job."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    config = parse(PretrainConfig)
    try:
        finished = run(config)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(describe(finished))


if __name__ == "__main__":
    main()
