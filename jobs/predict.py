"""Predict a property of new crystals: ``python jobs/predict.py --model runs/NAME my_cifs/ --out predictions.csv``."""

import sys

import bootstrap  # makes crysatom importable

NOTHING_PREDICTED = 2
SOME_REJECTED = 3


def main() -> int:
    """Run the job; return its exit code: 0, 3 if some crystals were rejected, or 2 if none was predicted."""
    from crysatom.config import PredictConfig, parse

    config = parse(PredictConfig)
    bootstrap.begin(config, out_is_file=True)
    from crysatom.pipelines.predicting import describe, run

    report = run(config)
    print(describe(report))
    if report.predicted:
        return SOME_REJECTED if report.rejected else 0
    why = f"see {report.quarantine}" if report.read else "there was none in the input"
    print(f"error: no crystal was predicted; {why}", file=sys.stderr)
    return NOTHING_PREDICTED


if __name__ == "__main__":
    bootstrap.run(main, kept="the previous predictions; new ones replace them at the end")
