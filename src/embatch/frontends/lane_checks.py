"""What is refused of a run's settings before anything is sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from embatch.errors import UsageError
from embatch.remote import STRATEGIES

if TYPE_CHECKING:
    from embatch.frontends.remote import LaneSettings
    from embatch.remote import Goal, ModelFacts


def check_settings(settings: LaneSettings) -> None:
    """Refuse values that make no sense.

    Raises:
        UsageError: naming the value.
    """
    if settings.strategy not in STRATEGIES:
        raise UsageError(f"strategy must be one of {', '.join(STRATEGIES)}, not {settings.strategy!r}")
    for name in ("threshold", "parallel", "max_job_items"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    for name in ("poll_s", "patience_s"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be more than 0, not {value}")
    _check_goal(settings.goal)


def _check_goal(goal: Goal) -> None:
    for what, value in (
        ("the deadline", goal.deadline_s),
        ("the budget", goal.budget),
        ("what an hour of waiting is worth", goal.hour_worth),
    ):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise UsageError(
                f"{what} must be a number, not {value!r}", hint="Seconds or dollars; None for none."
            )
    if goal.deadline_s is not None and goal.deadline_s <= 0:
        raise UsageError(f"the deadline must be later than now, not {goal.deadline_s} s")
    if goal.budget is not None and goal.budget < 0:
        raise UsageError(f"the budget cannot be negative: {goal.budget}")
    if goal.hour_worth < 0:
        raise UsageError(f"an hour of waiting cannot be worth less than nothing: {goal.hour_worth}")


def check_budget(facts: ModelFacts, goal: Goal) -> None:
    """Refuse a budget that cannot be kept.

    Raises:
        UsageError: the model's prices are not known.
    """
    if goal.budget is not None and facts.prices is None:
        raise UsageError(
            f"a budget cannot be kept: no price is known for {facts.provider}:{facts.model}",
            hint="Leave it out, or give the model's prices in the file that EMBATCH_PROVIDER_FACTS names.",
        )


def check_jobs(facts: ModelFacts, strategy: str) -> None:
    """Refuse jobs that were asked for by name where there are none: calls cost twice as much.

    Raises:
        UsageError: the model has no jobs, there or at all.
    """
    if strategy == "batch" and facts.job is None:
        raise UsageError(
            f"{facts.provider}:{facts.model} has no batch jobs here: the strategy batch cannot be followed",
            hint="Leave the strategy out, or take individual: calls do it. Jobs are for Gemini's and OpenAI's own API; "
            "on Vertex AI, on Azure and on compatible servers embatch makes calls only.",
        )
