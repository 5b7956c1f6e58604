"""What `train_step.py` runs: both sides' training steps, each in a process of its own, the profile by kind of work, and the engines."""
