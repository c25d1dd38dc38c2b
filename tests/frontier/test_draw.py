import random
from xml.etree import ElementTree

import pytest

from spikeconv.frontier.draw import HEIGHT, WIDTH, draw
from spikeconv.frontier.labels import Box, place_labels, text_width
from spikeconv.frontier.measure import Measurement
from spikeconv.frontier.rows import Frontier, Row

SVG = "{http://www.w3.org/2000/svg}"


def row(label: str, mark: str, spikes: float | None, perplexity: float) -> Row:
    measured = Measurement(
        perplexity={"docs": perplexity, "boolq": 1.1 * perplexity},
        tasks={},
        spikes_per_input=spikes,
        slots=None,
        zero_share=None,
        additions_per_token=None,
        bytes=1,
        seconds=1,
    )
    return Row(label, mark, measured, None)


def frontier(*points: tuple[str, str, float, float]) -> Frontier:
    return Frontier((row("float", "float", None, 10), *(row(*point) for point in points)), {})


def test_every_point_is_in_the_picture_and_nothing_leaves_it() -> None:
    numbers = random.Random(1)
    for count in (0, 1, 2, 15, 40):
        points = [
            (f"p<{index}>&", "ours" if index % 2 else "paper", 2 ** numbers.uniform(-9, 8), 10 * 10 ** numbers.random())
            for index in range(count)
        ]
        picture = frontier(*points, *[("worse", "ours", 0.0, 1e9)] * bool(count))
        root = ElementTree.fromstring(draw(picture, "<model> & co"))
        titles = [title.text or "" for title in root.iter(f"{SVG}title")]
        assert sorted(title.split(": ")[0] for title in titles) == sorted(each.label for each, _ in picture.spiking)
        assert any("<model> & co" in (text.text or "") for text in root.iter(f"{SVG}text"))
        for each in (*root.iter(f"{SVG}text"), *root.iter(f"{SVG}circle")):
            x, y = (float(each.get(name) or each.get(f"c{name}") or "nan") for name in "xy")
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
        assert float(root.get("viewBox", "").split()[2]) == WIDTH


def test_labels_cover_neither_each_other_nor_what_is_taken() -> None:
    numbers, frame = random.Random(2), Box(0, 0, 300, 200)
    for count in (1, 10, 50):
        points = [
            (numbers.uniform(0, 300), numbers.uniform(0, 200), f"label {index}", index % 2 == 0)
            for index in range(count)
        ]
        taken = [Box(x - 5, y - 5, x + 5, y + 5) for x, y, *_ in points]
        labels = place_labels(points, 12, frame, taken)
        placed = [label for label in labels if label is not None]
        boxes = [label.box for label in placed]
        assert labels[0] is not None and all(box.inside(frame) for box in boxes)
        for index, box in enumerate(boxes):
            assert not any(box.overlap(other) for other in [*taken, *boxes[:index]])
            assert box.right - box.left >= text_width(placed[index].text, 12) - 1e-9


def test_the_worse_text_counts() -> None:
    found = frontier(("a", "ours", 1.0, 12), ("b", "paper", 2.0, 11), ("c", "paper", 3.0, 11))
    assert found.worst(found.rows[1]) == pytest.approx(1.2)
    assert [each.label for each in found.pareto] == ["a", "b"]
    table = found.table()
    assert [each["pareto"] for each in table] == [False, True, True, False]
    assert len(found.csv().splitlines()) == 5 and found.csv().startswith("label,mark,pareto,spikes_per_input")
