"""The report: one HTML page of what MLflow holds."""
