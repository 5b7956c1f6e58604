"""The parts of project_scaling.py."""
