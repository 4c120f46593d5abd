"""The networks of MOVA, with the module names of the released checkpoints."""
