"""The OpenVINO backend: encoder models on the processor, with nothing of PyTorch."""

from embatch.backends.openvino.backend import OpenVINOBackend
from embatch.backends.openvino.graphs import build_model

__all__ = ["OpenVINOBackend", "build_model"]
