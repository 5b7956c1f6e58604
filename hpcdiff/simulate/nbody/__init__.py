"""Clusters that gravity made: constrained peaks in small periodic boxes, or one periodic box, with gas in the evolved potential.

`plan` (what the boxes are), `initial` (random waves, the peak, displacements), `growth`, `mesh` and `pairs` (the two parts of `gravity`),
`evolve` (time), `halos`, `gas`, `box` (one box from its waves to its file), `work` (boxes over the ranks).
"""
