"""`python -m embatch` is the command line."""

import sys

from embatch.frontends.cli import main

sys.exit(main())
