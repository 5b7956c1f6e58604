"""Evaluation: posterior samples against the truth -> `metrics.json`, `figures/*.png`, `report.html`."""
