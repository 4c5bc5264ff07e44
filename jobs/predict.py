"""Predict a property of new crystals: ``python jobs/predict.py --model runs/NAME my_cifs/ --out predictions.csv``."""

import sys

import bootstrap  # makes crysatom importable
from crysatom.config import PredictConfig, parse

NOTHING_PREDICTED = 2
SOME_REJECTED = 3


def main() -> int:
    """Run the job; return its exit code: 0, 3 if some crystals were rejected, or 2 if none was predicted."""
    config = parse(PredictConfig)
    bootstrap.set_up_process()
    from crysatom.pipelines.predicting import describe, run

    try:
        report = run(config)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    print(describe(report))
    if report.predicted:
        return SOME_REJECTED if report.rejected else 0
    why = f"see {report.quarantine}" if report.read else "there was none in the input"
    print(f"error: no crystal was predicted; {why}", file=sys.stderr)
    return NOTHING_PREDICTED


if __name__ == "__main__":
    bootstrap.run(main)
