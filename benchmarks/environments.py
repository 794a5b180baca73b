"""The peers' virtual environments under `.venv-bench`, and the model files that they need in formats of their own.

Each peer has an environment of its own, because they do not agree on the versions of transformers and numpy. What
cannot be installed or converted here is kept as a reason, and shows in the results.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.worker import REPOSITORY

ROOT = REPOSITORY / ".venv-bench"
MODELS = ROOT / "models"
_REQUIREMENTS = Path(__file__).parent / "requirements"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One virtual environment, described by `requirements/<name>.txt`."""

    name: str
    unwanted: tuple[str, ...] = ()
    """Distributions that come along and break the rest: removed after the installation."""

    @property
    def python(self) -> Path:
        """Its interpreter, whether it exists or not."""
        return ROOT / self.name / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """A copy of the requirements that the environment was made from; it exists when it is complete."""
        return ROOT / self.name / "requirements.txt"

    @property
    def requirements(self) -> Path:
        """What is installed into it."""
        return _REQUIREMENTS / f"{self.name}.txt"

    def problem(self) -> str | None:
        """Why it cannot be used, or None."""
        if not self.stamp.exists():
            log = ROOT / f"{self.name}.log"
            return f"could not be installed: {_last_line(log)}" if log.exists() else "not set up"
        if self.stamp.read_text("utf-8") != self.requirements.read_text("utf-8"):
            return "set up for other versions"
        return None


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment(name="st"),
        # optimum-intel asks for torchvision, whose builds clash with this torch and break `import transformers`.
        Environment(name="st-openvino", unwanted=("torchvision",)),
        Environment(name="fastembed"),
        Environment(name="infinity"),
        Environment(name="ctranslate2"),
    )
}


def set_up(model: Path) -> dict[str, str]:
    """Make what is missing: environments first, then converted models. Returns name -> problem."""
    ROOT.mkdir(exist_ok=True)
    problems = {}
    for environment in ENVIRONMENTS.values():
        if environment.problem() is not None:
            print(f"setting up {environment.name} …", flush=True)
            _install(environment)
        if (problem := environment.problem()) is not None:
            problems[environment.name] = problem
    _convert("ctranslate2", "benchmarks.workers.convert", model)
    _convert("st-openvino", "benchmarks.workers.export_openvino", model)
    return problems


def _install(environment: Environment) -> None:
    folder = ROOT / environment.name
    shutil.rmtree(folder, ignore_errors=True)
    pip: list[str | Path] = [environment.python, "-m", "pip"]
    constraints = _REQUIREMENTS / "constraints.txt"
    steps: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", folder],
        [*pip, "install", "--quiet", "-c", constraints, "-r", environment.requirements],
    ]
    if environment.unwanted:
        steps.append([*pip, "uninstall", "--quiet", "--yes", *environment.unwanted])
    if _run(steps, ROOT / f"{environment.name}.log"):
        shutil.copy(environment.requirements, environment.stamp)


def _convert(name: str, module: str, model: Path) -> None:
    environment = ENVIRONMENTS[name]
    if environment.problem() is None:
        MODELS.mkdir(exist_ok=True)
        _run([[environment.python, "-m", module, model, MODELS]], ROOT / f"{name}-models.log")


def _run(steps: list[list[str | Path]], log: Path) -> bool:
    with log.open("wb") as output:
        return all(
            subprocess.run(step, cwd=REPOSITORY, stdout=output, stderr=output, check=False).returncode == 0
            for step in steps
        )


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1].replace(str(REPOSITORY), ".") if lines else "no output"
