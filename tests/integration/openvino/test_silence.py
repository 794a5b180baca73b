"""Loading a model tells nobody."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import embatch.backends.openvino
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")], "telemetry was loaded"
assert sys.modules["openvino_telemetry"] is None
"""


def test_the_engine_reports_to_no_analytics_service() -> None:
    """OpenVINO is loaded without the package that sends its use over the network."""
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
