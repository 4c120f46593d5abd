"""Pocket: a procedural world of talking faces, bouncing balls and toy pianos, and the recipe that learns it.

The recipe is a tool of this repository, not a part of the installed package: nothing in `mova` or the demo
imports it. `world.render(seed)` gives one clip with its caption and true events, `loader.stream(batch)` as
many as a trainer can take, and `python -m recipes.pocket render --sheet` clips to look at.
"""
