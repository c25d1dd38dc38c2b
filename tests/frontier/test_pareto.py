import random

from spikeconv.frontier.pareto import pareto_set


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def test_against_brute_force() -> None:
    numbers = random.Random(0)
    for count in range(12):
        for _ in range(60):
            points = [(numbers.randint(0, 5) / 2, numbers.randint(0, 5) / 2) for _ in range(count)]
            expected = [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
            found = pareto_set(points)
            assert sorted(found) == expected
            assert [points[i] for i in found] == sorted(points[i] for i in found)
