"""From texts on the command line to one `SpikeConfig`, or a sentence."""

from pathlib import Path
from typing import Any

import pytest

from spikeconv.cli.settings import build_config
from spikeconv.config import CountInputs, KvSettings, SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.sources.presets import load_scheme, scheme_names

SETTINGS = ["bits", "steps", "seed", "skip", "overrides", "kv", "kv_bits", "kv_steps", "inputs", "inputs.clip"]
SETTINGS += ["inputs.clip_ratio", "rotation", "weights.bits", "code", "codec", "inputs.codec", "unknown.path", "."]
VALUES = [
    "", "null", "~", "true", "-1", "4", "1e400", ".nan", ".inf", "9" * 5000, "0x" + "f" * 5000,
    "[", "[1, [2]]", "[" * 999,
    "{a: 1}", "{a: {b: [null]}}", "{1: 2}", "{[1]: 2}", "? [a]\n: b", "!!python/object:os.system x", "&a [*a]",
    "2001-99-99",
    "2001-01-01", "%", "\t", "\0", "@x", "'", "q: k", "a=b", "\ud800", "é²",
]  # fmt: skip


def test_texts_are_a_setting_or_a_sentence(tmp_path: Path) -> None:
    scheme = tmp_path / "scheme.yaml"
    for name in SETTINGS:
        for value in VALUES:
            texts = [f"{name}={value}"]
            scheme.write_text(f"{name}: {value}", encoding="utf-8", errors="replace")
            for arguments in (
                (None, {}, texts, [], []),
                (None, {}, [], [], [f"down:{texts[0]}"]),
                (str(scheme), {}, [], ["q"], ["down:seed=1"]),
            ):
                try:
                    config = build_config(*arguments)
                except SpikeconvError as error:
                    assert len(str(error)) < 2000 and "Traceback" not in str(error)
                else:
                    assert SpikeConfig.parse(config.model_dump(mode="json")) == config


def test_file_then_options_then_assignments(tmp_path: Path) -> None:
    scheme = tmp_path / "scheme.yaml"
    scheme.write_text("bits: 4-1\ninputs: {clip_ratio: 0.7}\nskip: o\nkv: {bits: 4}\n", encoding="utf-8")
    config = build_config(
        str(scheme), {"steps": 31, "clip_ratio": 0.8, "seed": None}, ["inputs.clip_ratio=0.95"], [], []
    )
    assert config.inputs == CountInputs(spikes="binary", bits=5, clip_ratio=0.95)
    assert config.skip == ("o",) and config.kv == KvSettings(bits=4)
    together = build_config(None, {"steps": 16}, ["bits=4-1.58"], ["q"], ["down:weights.bits=6,inputs.clip_ratio=0.5"])
    assert together.inputs == CountInputs(bits=5) and together.skip == ("q",)
    down = together.for_linear("model.layers.0.mlp.down_proj", "down")
    assert down is not None and (down.weights.bits, down.inputs) == (6, CountInputs(bits=5, clip_ratio=0.5))
    assert build_config(str(scheme), {"kv_bits": "none"}, [], ["q"], []).kv is None
    assert build_config(str(scheme), {}, ["skip=[k]"], ["q"], []).skip == ("k", "q")


BITS = {
    **{f"spikerwkv-{digits}l": f"16-{digits}L" for digits in range(3, 7)},
    **{f"snn-rwkv-{steps}": f"16-T{steps}" for steps in (3, 4)},
    **{f"spikelm-t4{row}": "16-E4" for row in ("", "-k3", "-k4", "-learned", "-unscaled")},
    "spikelm-t4-binary": "16-E4+",
    "spikelm-t1": "16-E1",
    "spikelm-1-t1": "1-E1",
    "lif-bert-t4": "16-L4",
    "lif-bert-arctan-t4": "16-L4",
}
"""Names that do not have the bits in them."""


def test_schemes_are_what_they_are_called() -> None:
    for name in scheme_names():
        config = SpikeConfig.parse(load_scheme(name))
        if name.startswith("ramp-"):  # with the bits of the weights: what is sent has a width of its own
            inputs = config.inputs
            assert config.bits == f"{name[5]}-1.58" and config.code.slots == 24, name
            assert isinstance(inputs, CountInputs) and inputs.count_max == 300, name
            assert bool(inputs.dead_zone) == name.endswith("-sparse"), name
        elif name in BITS:
            assert config.bits == BITS[name], name
        else:
            assert config.bits in name.replace("4-t", "4G"), name
    for name in ("quarot-4-4", "spinquant-4-4"):
        config = SpikeConfig.parse(load_scheme(name))
        assert config.rotation.kind == "quarot" and config.kv == KvSettings(bits=4, range="asymmetric")
    plain = SpikeConfig.parse(load_scheme("rtn-4-4"))
    assert plain.rotation.is_none and plain.weights.clip == "none" and plain.inputs.clip_ratio == 1
    assert SpikeConfig.parse(load_scheme("smoothquant-4-4")) == plain.model_copy(update={"balance": "smoothquant"})
    assert SpikeConfig.parse(load_scheme("quarot-4-1.58")).rotation.kind == "quarot"
    elastic: dict[str, Any] = {"codec": "elastic", "time_steps": 4}
    for name, settings in (
        ("spikelm-t4-k3", {**elastic, "k": 3}),
        ("spikelm-t4-k4", {**elastic, "k": 4}),
        ("spikelm-t4-learned", {**elastic, "alpha": "learned"}),
        ("spikelm-t4-unscaled", {**elastic, "alpha": "one"}),
        ("lif-bert-arctan-t4", {"codec": "lif", "time_steps": 4, "inputs.gradient": "arctan"}),
        ("gptq-4-4", {"bits": "4-4", "rotation": "none", "weights": "gptq", "clip_ratio": 1.0}),
    ):
        assert SpikeConfig.parse(load_scheme(name)) == SpikeConfig.parse(settings), name
    assert SpikeConfig.parse(load_scheme("sdllm-4-1.58-kv4")).kv == KvSettings(bits=4)
    with pytest.raises(SpikeconvError, match=r"Did you mean quarot-4-1\.58"):
        load_scheme("quarot-4-1.5")


def test_schemes_that_say_nothing_or_two_things(tmp_path: Path) -> None:
    scheme = tmp_path / "scheme.yaml"
    for text, words in (("bits: 4-1\nbits: 4-4", "bits is there twice"), ("[]", "holds list"), ("false", "holds bool")):
        scheme.write_text(text)
        with pytest.raises(SpikeconvError, match=words):
            build_config(str(scheme), {}, [], [], [])
    with pytest.raises(SpikeconvError, match="No scheme ''"):
        build_config("", {}, [], [], [])
    with pytest.raises(SpikeconvError, match="seed is there twice"):
        build_config(None, {}, ["rotation={seed: 1, seed: 2}"], [], [])
    scheme.write_text("# nothing yet\n")
    assert build_config(str(scheme), {}, [], [], []) == SpikeConfig()
