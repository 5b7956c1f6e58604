"""Ensembles: many runs that differ in a few keys of the config, launched together and gathered in one table.

A sweep knows the stages by their commands and files alone, as a user does.
"""
