"""`python -m embatch` is the command line."""

from embatch.frontends.cli import script

script()
