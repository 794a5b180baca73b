"""The only place that wires things together: the Python API, the command line, adapters."""
