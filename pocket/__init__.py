"""Pocket: a procedural world of talking faces, bouncing balls and toy pianos, and the recipe that learns it.

The recipe is a tool of this repository, not a part of the installed package: nothing in `mova` or the demo
imports it.
"""
