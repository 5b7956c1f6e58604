"""Training: maps.h5 -> checkpoints/, tensorboard/, stats.jsonl, model/."""
