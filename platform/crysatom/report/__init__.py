"""The report: one HTML page about the runs in MLflow."""
