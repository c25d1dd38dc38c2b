from pathlib import Path

import pytest

from spikeconv.conversion.recipe import read_settings
from spikeconv.errors import SpikeconvError
from spikeconv.frontier.grid import choose_points, load_grid


def test_the_grid_of_the_repository() -> None:
    points = load_grid()
    assert {point.mark for point in points} == {"paper", "ours"}
    schemes = {point.scheme for point in points}
    assert {"sdllm-4-1.58", "sdllm-4-1.58-t16", "sdllm-6-1.58", "quarot-4-1.58", "spikerwkv-3l"} <= schemes
    settings = {point.label: read_settings(point.scheme, point.settings)[0] for point in points}
    codes = {config.code.kind for config in settings.values()}
    assert codes == {"unary", "binary", "signed-digit", "ramp"}
    assert settings["repetition"].inputs.codec == "repetition"
    ramp = settings["ramp-5-sparse"]
    assert (ramp.weights.bits, ramp.code.slots, ramp.balance) == (5, 24, "sqrt")
    assert ramp.inputs.dead_zone and ramp.inputs.scale == "rms"


def test_points_are_chosen_by_label_in_the_order_of_the_grid() -> None:
    points = load_grid()
    labels = [point.label for point in points]
    assert choose_points(points, None) == points
    chosen = choose_points(points, f"{labels[4]}, {labels[1]},float")
    assert [point.label for point in chosen] == [labels[1], labels[4]]
    assert choose_points(points, "float") == ()
    with pytest.raises(SpikeconvError, match=r"has no 'ramp-55'\. Did you mean ramp-5"):
        choose_points(points, "ramp-55")


def test_broken_grids_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    good = "{label: a, mark: ours, settings: {bits: 4-1.58}}"
    for text, words in (
        ("", "holds nothing"),
        ("points: []", "holds a dict"),
        ("[", "not readable YAML"),
        ("- 5", "point 1"),
        (f"- {good}\n- {good}", "two points are called 'a'"),
        ("- {label: a, mark: ours}", "neither scheme nor settings"),
        ("- {label: a, mark: theirs, scheme: x}", "point 1.mark: must be one of paper, ours"),
        ("- {label: a, mark: ours, schema: x}", "Did you mean scheme"),
        ("- {mark: ours, scheme: x}", "label: is missing"),
        ("- {label: float, mark: ours, scheme: x}", "always measured"),
        ("- {label: 'a,b', mark: ours, scheme: x}", "commas"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SpikeconvError) as error:
            load_grid(path)
        assert words in str(error.value) and "\n" not in str(error.value), text
    path.write_bytes(b"\xff")
    with pytest.raises(SpikeconvError, match="not UTF-8"):
        load_grid(path)
    with pytest.raises(SpikeconvError, match="cannot be read"):
        load_grid(tmp_path / "none")
