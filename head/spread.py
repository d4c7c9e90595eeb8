"""How much numbers differ from seed to seed, and whether two heads differ by more than that.

Knows nothing of heads: a number comes with the seed that gave it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NOISE_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean and standard deviation of a number over seeds."""

    mean: float
    standard_deviation: float | None
    """Of the seeds, with ``num_seeds`` - 1 below the root; None for one seed."""
    num_seeds: int

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None for one seed."""
        if self.standard_deviation is None:
            return None
        return self.standard_deviation / math.sqrt(self.num_seeds)

    @property
    def is_noise(self) -> bool | None:
        """Whether the mean is nearer to 0 than two standard errors; None for one seed."""
        if self.standard_error is None:
            return None
        return self.mean == 0 or abs(self.mean) < NOISE_STANDARD_ERRORS * self.standard_error

    def as_json(self) -> dict[str, float | int | None]:
        """``mean``, ``sd`` and ``num_seeds``."""
        return {"mean": self.mean, "sd": self.standard_deviation, "num_seeds": self.num_seeds}


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one number, one a seed."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Spread(mean=mean, standard_deviation=None, num_seeds=1)
    squares = math.fsum((value - mean) ** 2 for value in values)
    deviation = math.sqrt(squares / (len(values) - 1))
    return Spread(mean=mean, standard_deviation=deviation, num_seeds=len(values))


def paired_difference(of_seed: Mapping[int, float], base: Mapping[int, float]) -> Spread | None:
    """``of_seed`` minus ``base``, seed by seed, of the seeds that both have; None if none.

    Paired, because a seed gives both heads the same batches in the same order.
    """
    both = sorted(of_seed.keys() & base.keys())
    return spread_of([of_seed[seed] - base[seed] for seed in both]) if both else None
