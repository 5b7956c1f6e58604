"""`hpcdiff doctor`: what these ranks have, what they reach together, and whether a run would go well here.

It reads and measures; of a stage it knows only what `--dry-run` prints. Its ranks meet as a stage's would: by MPI where an MPI launcher
started them, else by torch.distributed; the other half's library is imported in a process of its own, never in this one.
"""
