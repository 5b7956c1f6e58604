"""What `sampler_quality.py` runs: samples of every setting, their scores, the choice between them, and the clock beside score_models."""
