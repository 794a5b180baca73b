"""Benchmarks of embatch against its peers, with recorded results.

`python -m benchmarks --help` lists what can be measured; results lie in `benchmarks/results`. Imported by the
interpreters of the peers as well, so this module imports nothing.
"""
