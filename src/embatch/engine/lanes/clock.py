"""The time that a remote run lives by: the world's, or one that runs faster, for rehearsals."""

from __future__ import annotations

import time


class Clock:
    """Seconds of a run.

    Args:
        scale: seconds of the run per second of the world; above 1 only against an emulator that runs as fast.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def now(self) -> float:
        """Seconds from a point that never changes while the process lives; never goes back."""
        return time.monotonic() * self.scale

    def wall(self) -> float:
        """Seconds from a point that all processes share: for what is kept between them."""
        return time.time() * self.scale

    def real(self, seconds: float) -> float:
        """Seconds of the world in so many of the run."""
        return seconds / self.scale
