"""Reports of runs: from a record to frozen figures, from figures to plots, from both to one page or a few lines."""
