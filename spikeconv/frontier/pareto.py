"""The Pareto set: what nothing beats in spikes and in quality at once."""

from collections.abc import Sequence

__all__ = ["pareto_set"]


def pareto_set(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other dominates, from the smallest first number on; smaller is better in both.

    A point dominates another if it is nowhere worse and somewhere better, so equal points are in the set together.
    """
    order = sorted(range(len(points)), key=lambda index: points[index])
    found: list[int] = []
    for index in order:
        if not found or points[index][1] < points[found[-1]][1] or points[index] == points[found[-1]]:
            found.append(index)
    return found
