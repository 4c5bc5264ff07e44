"""Make element vectors by older methods: ``python jobs/vectors.py --method skipatom --data crystals.parquet``."""

import sys

import bootstrap  # makes crysatom importable
from crysatom.config import VectorsConfig, parse


def main() -> None:
    """Run the job."""
    config = parse(VectorsConfig)
    bootstrap.require_data(config.data)
    bootstrap.set_up_process()
    from crysatom.pipelines.vectors import describe, run

    try:
        finished = run(config)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(describe(finished))


if __name__ == "__main__":
    bootstrap.run(main)
