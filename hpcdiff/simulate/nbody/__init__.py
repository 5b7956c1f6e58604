"""Clusters that gravity made: constrained peaks in periodic boxes of their own, or one periodic box, with gas in the evolved potential.

`plan` (what the boxes are), `zoom` (fine and coarse particles), `initial` (random waves, displacements), `peak` (the cluster's sphere), `growth`, `mesh` and `pairs` (the two parts of `gravity`),
`evolve` (time), `halos`, `gas`, `box` (one box from its waves to its file), `work` (boxes over the ranks).
"""
