"""The pocket enhancer: a very small causal model that turns a short idea into a prompt of the pocket world.

`ideas.draw_idea(seed)` gives an idea as people type it and the prompt it should become; `train` learns from
millions of them, `check` measures on ideas that training never saw, through the product's own path.
"""
