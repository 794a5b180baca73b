"""The map of an index: its chunks as points in two dimensions, in one page that needs nothing else."""
