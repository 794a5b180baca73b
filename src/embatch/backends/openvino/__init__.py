"""The OpenVINO backend: encoder models on the processor, with nothing of PyTorch."""

import sys

# Importing OpenVINO would fork a process that reports the import to a web analytics service. embatch reports nothing to
# anybody; without this package OpenVINO and NNCF go on in silence, and load a fifth faster.
if "openvino" not in sys.modules:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: it cannot be imported

from embatch.backends.openvino.backend import OpenVINOBackend
from embatch.backends.openvino.graphs import build_model

__all__ = ["OpenVINOBackend", "build_model"]
