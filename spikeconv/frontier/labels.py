"""Where labels go in a crowded picture: beside their points, on nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Box", "Label", "place_labels", "text_width"]

NARROW, WIDE = "fijlrtI.,:;'!|()[]-1 ", "mwMWGOQ@%—×"


def text_width(text: str, size: float, bold: bool = False) -> float:
    """About how wide a sans-serif text is, in pixels, rather too much than too little."""
    return (
        (1.09 if bold else 1.0)
        * size
        * sum(0.38 if letter in NARROW else 0.9 if letter in WIDE else 0.62 for letter in text)
    )


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def inside(self, other: "Box") -> bool:
        """Whether nothing of it is outside of another."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Label:
    """A text at a place: `x` is its middle, `y` its baseline; `far` if it needs a line to its point."""

    text: str
    x: float
    y: float
    box: Box
    far: bool

    def end(self, x: float, y: float) -> tuple[float, float]:
        """Where the line from its point at x, y ends."""
        return min(max(x, self.box.left), self.box.right), min(max(y, self.box.top), self.box.bottom)

    def leader(self, x: float, y: float, pieces: int = 12) -> list[Box]:
        """That line in pieces, without its ends; nothing where there is none."""
        if not self.far:
            return []
        a, b = self.end(x, y)
        middles = [(x + (a - x) * i / pieces, y + (b - y) * i / pieces) for i in range(1, pieces)]
        return [Box(c - 0.7, d - 0.7, c + 0.7, d + 0.7) for c, d in middles]


def place_labels(
    points: Sequence[tuple[float, float, str, bool]], size: float, frame: Box, taken: Sequence[Box]
) -> list[Label | None]:
    """Labels that cover neither each other nor what is taken, or None where there is no such place.

    One after the other, the most important first; then those that found no place try to be first, one at a time, which
    stays where more labels are placed in all.

    Args:
        points: x, y and text of each, and whether it is bold; the most important first.
        size: of the font.
        frame: what they stay inside.
        taken: what is drawn already: markers, lines.
    """
    order = list(range(len(points)))
    best = _place(points, order, size, frame, taken)
    for index in [index for index in order if best[index] is None]:
        other = [index, *(each for each in order if each != index)]
        found = _place(points, other, size, frame, taken)
        if found.count(None) < best.count(None):
            order, best = other, found
    return best


def _place(
    points: Sequence[tuple[float, float, str, bool]],
    order: Sequence[int],
    size: float,
    frame: Box,
    taken: Sequence[Box],
) -> list[Label | None]:
    used, placed = list(taken), list[Box]()
    found: list[Label | None] = [None] * len(points)
    for index in order:
        x, y, text, bold = points[index]
        candidates = (each for each in _candidates(x, y, text, size, bold) if _free(each.box, frame, used))
        label = next((each for each in candidates if not _hits(each.leader(x, y), placed)), None)
        if label is not None:
            used += [label.box, *label.leader(x, y)]
            placed.append(label.box)
        found[index] = label
    return found


def _free(box: Box, frame: Box, used: Sequence[Box]) -> bool:
    return box.inside(frame) and not any(box.overlap(other) for other in used)


def _hits(line: Sequence[Box], boxes: Sequence[Box]) -> bool:
    return any(piece.overlap(box) for piece in line for box in boxes)


def _candidates(x: float, y: float, text: str, size: float, bold: bool) -> list[Label]:
    width = text_width(text, size, bold)
    result = []
    for step in range(6):  # ever further away
        gap = 7 + 9 * step
        side = gap + width / 2
        for dx, dy in (
            (side, 0), (0, -gap - size / 2), (0, gap + size / 2), (-side, 0),
            (side * 0.8, -gap), (side * 0.8, gap), (-side * 0.8, -gap), (-side * 0.8, gap),
            (side * 0.4, -gap - size / 2), (side * 0.4, gap + size / 2),
        ):  # fmt: skip
            middle, centre = x + dx, y + dy
            box = Box(middle - width / 2, centre - size * 0.55, middle + width / 2, centre + size * 0.55)
            result.append(Label(text, middle, centre + size * 0.35, box, step > 0))
    return result
