"""Embedded simulations: a periodic GADGET-style box with clusters, and their catalogue.

`plan` (what will be drawn), `profiles` (radial laws), `cluster` (one cluster's numbers), `particles` (one cell's
particles), `neighbours` (smoothing lengths and densities), `chunks` (files), `work` (the two passes over the ranks).
"""
