"""One ranking out of several: reciprocal rank fusion.

Between the searches of a store and the hits of a query. It looks at ranks only, so scores that cannot be compared, such
as a cosine and BM25, need no scale in common. It finds nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def fuse(
    rankings: Sequence[Sequence[str]], *, weights: Sequence[float] | None = None, constant: float = 60.0
) -> list[tuple[str, float]]:
    """Everything that is in any ranking, with its fused score, best first.

    Formula: Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual rank
    learning methods": the sum over the rankings of `weight / (constant + rank)`, ranks from 1. Equal scores keep the
    order in which they are met, the first ranks of all rankings before the second ones.

    Args:
        rankings: identifiers, best first. One that is repeated counts where it stands first.
        weights: one a ranking, not negative; all 1 if not given.
        constant: how little the first ranks stand out, above 0.

    Raises:
        UsageError: not one weight a ranking, a negative one, or a constant that is not above 0.
    """
    shares = [1.0] * len(rankings) if weights is None else list(weights)
    if len(shares) != len(rankings) or not all(share >= 0 for share in shares):
        raise UsageError(
            f"fusion needs one weight a ranking, none below 0: {shares!r} for {len(rankings)} rankings"
        )
    if not constant > 0:
        raise UsageError(f"the constant of fusion must be above 0, not {constant!r}")
    distinct = [list(dict.fromkeys(ranking)) for ranking in rankings]
    scores: dict[str, float] = {}
    for rank in range(1, max(map(len, distinct), default=0) + 1):
        for ranking, share in zip(distinct, shares, strict=True):
            if rank <= len(ranking):
                name = ranking[rank - 1]
                scores[name] = scores.get(name, 0.0) + share / (constant + rank)
    return sorted(scores.items(), key=lambda entry: -entry[1])
