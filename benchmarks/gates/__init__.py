"""Parts of `simulation_gates.py`."""
