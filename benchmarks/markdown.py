"""Small pieces of Markdown that the suites' tables share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its first column to the left and numbers to the right.

    >>> print(table(["system", "texts/s"], [["embatch", "10"]]))
    | system | texts/s |
    | :--- | ---: |
    | embatch | 10 |
    """
    rule = [":---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def number(value: float) -> str:
    """Three significant digits, thousands separated.

    >>> number(12345.6), number(3.14159), number(0.5)
    ('12,300', '3.14', '0.5')
    """
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def footnote(result: dict[str, Any]) -> str:
    """Where and when a result was taken, and what could not be run."""
    machine = result["machine"]
    line = (
        f"{machine['processor']} (family {machine['family']}), {machine['cores']} cores, "
        f"{machine['memory_gib']:g} GiB, {machine['kernel']}; commit {result['commit']}, {result['date']}."
    )
    missing = [f"{name}: {reason}" for name, reason in result["not_run"].items()]
    return line + (f" Not run: {'; '.join(missing)}." if missing else "")
