"""Posterior sampling: maps.h5, model/ -> samples.h5."""
