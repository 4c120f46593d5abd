"""The page: what a person sees and does, on a laptop, a GPU machine or a Space. No torch at import."""
