"""One module for each system that is measured, run by that system's own interpreter.

Each module answers the commands of `protocol` on standard input. They import nothing of embatch but the one worker
that measures it, and nothing that their own environment lacks.
"""
