"""Parts of `batch_scaling.py` and `fake_ranks.py`."""
