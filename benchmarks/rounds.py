"""Interleaved rounds: every contender is measured in each round, so that a busy machine is busy for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

#: What one round of one contender measured, by the name of the measure.
Measured = Mapping[str, float]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Figure:
    """The median of some rounds, between the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Figure:
        """Return the figure of these numbers."""
        if len(numbers) < 2:
            return cls(numbers[0], numbers[0], numbers[0])
        low, _, high = quantiles(numbers, n=4, method="inclusive")
        return cls(median(numbers), low, high)


@dataclass(frozen=True)
class Results:
    """What all rounds measured, by contender; a contender that could not take part has a reason instead."""

    rounds: Mapping[str, Sequence[Measured]]
    absent: Mapping[str, str]

    def figure(self, name: str, measure: str) -> Figure | None:
        """Return a contender's own figure, or None when it has none."""
        numbers = [measured[measure] for measured in self.rounds.get(name, ()) if measure in measured]
        return Figure.of(numbers) if numbers else None

    def ratio(self, name: str, measure: str, base: str) -> Figure | None:
        """Return the figure of the ratios to `base`, each taken within one round."""
        pairs = zip(self.rounds.get(name, ()), self.rounds.get(base, ()), strict=False)
        ratios = [mine[measure] / theirs[measure] for mine, theirs in pairs if theirs.get(measure) and measure in mine]
        return Figure.of(ratios) if ratios else None

    def more(self, name: str, measure: str, base: str) -> Figure | None:
        """Return the figure of the differences to `base`, each taken within one round."""
        pairs = zip(self.rounds.get(name, ()), self.rounds.get(base, ()), strict=False)
        more = [mine[measure] - theirs[measure] for mine, theirs in pairs if measure in mine and measure in theirs]
        return Figure.of(more) if more else None


def interleaved(
    contenders: Mapping[str, Callable[[], Measured]],
    *,
    rounds: int,
    progress: Progress,
    absent: Mapping[str, str] | None = None,
    warm_up: bool = True,
) -> Results:
    """Run every contender in each of so many rounds, and in one before them that does not count.

    Each round begins with another contender. One that fails takes part in no further round, and its error is told.
    """
    found: dict[str, list[Measured]] = {name: [] for name in contenders}
    missing = dict(absent or {})
    for number in range(-1 if warm_up else 0, rounds):
        progress(f"round {number + 1} of {rounds}")
        for name in _rotated(contenders, number):
            if name in missing:
                continue
            try:
                measured = contenders[name]()
            except Exception as error:
                missing[name] = f"failed: {error}"
                progress(f"{name} {missing[name]}")
                found[name] = []
                continue
            if number >= 0:
                found[name].append(measured)
    return Results(found, missing)


def _rotated(names: Iterable[str], by: int) -> list[str]:
    all_names = list(names)
    by %= max(1, len(all_names))
    return all_names[by:] + all_names[:by]
