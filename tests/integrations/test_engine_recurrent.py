"""The engine computes what RWKV's modules do; of RWKV-4 the same bits however a text is cut, batched or shared out."""

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import FINE, Converted, close, load, long_way, step_by_step
from torch import Tensor
from transformers import AutoModel

from spikeconv.calibrate.windows import Calibration
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.data.sample import sample_text
from spikeconv.engine import CHUNK, RecurrentEngine, RecurrentSequence, obstacle, recurrent_engine
from spikeconv.errors import SpikeconvError
from spikeconv.integrations import engine_recurrent as integration
from spikeconv.integrations.engine import engine_of, modules_only
from spikeconv.nn import set_execution, spike_linears
from spikeconv.ops.native import cpu_kernels, use_cpu_kernels
from spikeconv.ops.native import load as load_kernels
from spikeconv.record.recorder import Recorder
from spikeconv.record.watching import KeptCounts
from spikeconv.sources.hf import HfSource
from spikeconv.verification.engine import compare_engine
from spikeconv.verification.result import VerifyResult

pytestmark = pytest.mark.skipif(not load_kernels("cpu").is_native, reason="the engine is native code")

ASSETS = Path(__file__).parents[1] / "assets"

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"bits": "4-1"},
    {"bits": "8-8"},
    {"bits": "3-1.58", "steps": 16},
    {"steps": 128},
    {"overrides": [{"pattern": "r", "settings": {"inputs.spikes": "integer", "inputs.bits": 8}}]},
    {"rotation": "none"},
    {"count_scale": "rms", "step": 0.3, "dead_zone": 0.1},
    {"overrides": [{"pattern": "ffn.key", "settings": {"weights.bits": 8, "inputs.spikes": "integer"}}]},
)
"""Codecs, bits and scales of counts; those without a sign are the family's own, for `ffn.value`."""


@pytest.fixture(params=["rwkv", "rwkv6"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trained(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`trained(**settings)`: the real model of a kind, converted; calibrated as the settings ask for."""

    def make(calibration: Calibration | None = None, **settings: Any) -> Path:
        source = HfSource(ASSETS / ("rwkv4-brown" if kind == "rwkv" else "rwkv6-brown"))
        out = tmp_path_factory.mktemp(kind) / "model"
        convert(source, plan_conversion(source, SpikeConfig.parse(settings), calibration=calibration), out)
        return out

    return make


def hidden_of(engine: RecurrentEngine, ids: Tensor, state: list[Tensor], slot: int = 0) -> Tensor:
    return engine.forward(ids, [RecurrentSequence(len(ids), slot)], state, torch.arange(len(ids)), logits=False)


def test_block_by_block(
    kind: str, converted: Converted, trained: Callable[..., Path], threads: Callable[[int], None], tmp_path: Path
) -> None:
    """Given the same inputs: counts and accumulators to the bit, on every instruction set and any number of threads."""
    (tmp_path / "text.txt").write_text(sample_text(), encoding="utf-8")
    balanced = trained(Calibration(calibration=str(tmp_path / "text.txt"), calibration_tokens=128), balance="sqrt")
    paths = [*(converted(kind, **settings) for settings in SETTINGS), trained(), trained(**FINE), balanced]
    for path in paths:
        model = load(path)
        assert obstacle(model) is None and isinstance(model.base_model.forward, integration.RecurrentForward)
        ids = torch.randint(0, 256, (1, 61))
        for kernels in cpu_kernels():
            use_cpu_kernels(kernels)
            result, found = VerifyResult(), []
            compare_engine(model, ids, result)
            assert not result.different_in_engine and result.engine_outputs > 61 * model.config.hidden_size * 16
            assert 0 < (result.engine_error or 0) < 5e-6
            for number in (3, 2, 1):
                threads(number)
                engine = recurrent_engine(model)
                state = engine.state(1)
                logits = engine.forward(ids[0], [RecurrentSequence(61)], state, torch.tensor([60]), logits=True)
                found.append([logits, *state])
            assert all(map(torch.equal, found[0], found[1])) and all(map(torch.equal, found[0], found[2]))
    encoders = {linear.encoder for linear in spike_linears(load(balanced)).values()}
    assert any(encoder.held("input_balance") is not None for encoder in encoders)


def test_however_a_text_is_cut(kind: str, converted: Converted, threads: Callable[[int], None]) -> None:
    """At once, token by token, in a batch with others in any slots: the same hidden states and state, of RWKV-4 to the
    bit. (RWKV-6's small products of floats have an order that depends on how many tokens there are.)"""
    engine = recurrent_engine(load(converted(kind, **({} if kind == "rwkv" else FINE))))
    same = torch.equal if kind == "rwkv" else close
    of_slot = [lambda part, slot: part[slot]] * (5 if kind == "rwkv" else 2) + [lambda part, slot: part[:, slot]]
    texts = [torch.randint(0, 256, (length,)) for length in (CHUNK + 90, 3, 200, CHUNK)]
    alone = []
    for text in texts:
        state = engine.state(1)
        alone.append((hidden_of(engine, text, state), state))
    for sizes in ([1] * 200, [7, 100, 93]):
        state = engine.state(1)
        pieces = [hidden_of(engine, piece, state) for piece in texts[2].split(sizes)]
        assert same(torch.cat(pieces), alone[2][0]) and all(map(same, state, alone[2][1]))
    threads(2)
    slots, state, every = [4, 0, 3, 1], engine.state(5), torch.arange(sum(map(len, texts)))
    sequences = [RecurrentSequence(len(text), slot) for text, slot in zip(texts, slots, strict=True)]
    together = engine.forward(torch.cat(texts), sequences, state, every, logits=False)
    for found, slot, (expected, own) in zip(together.split([len(text) for text in texts]), slots, alone, strict=True):
        assert same(found, expected)
        assert all(same(of(part, slot), of(one, 0)) for of, part, one in zip(of_slot, state, own, strict=False))
    empty = engine.state(1)
    assert all(torch.equal(of(part, 2), of(one, 0)) for of, part, one in zip(of_slot, state, empty, strict=False))
    some = torch.tensor([0, CHUNK - 1, CHUNK, CHUNK + 89, len(every) - 1])  # on either side of where pieces end
    chosen = engine.forward(torch.cat(texts), sequences, engine.state(5), some, logits=False)
    assert torch.equal(chosen, together[some])


def test_generates_and_goes_on_by_itself(kind: str, converted: Converted, runs: list[int]) -> None:
    """`generate`, greedy and sampled, from a model that nobody else holds any more, copied or from a pickle."""
    path = converted(kind, **FINE)
    ids = torch.randint(0, 256, (2, 9))
    ways = (lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), long_way)
    for settings in ({"do_sample": False}, {"do_sample": True, "top_k": 5}):
        tokens = []
        for way in ways:
            generate = way(load(path)).generate
            gc.collect()
            torch.manual_seed(0)
            tokens.append(generate(ids, max_new_tokens=6, min_new_tokens=6, pad_token_id=0, **settings))
        assert all(torch.equal(each, tokens[-1]) for each in tokens)
    assert len(runs) == 2 * 3 * 6


def test_changes_are_seen(kind: str, converted: Converted, runs: list[int]) -> None:
    """The plan holds addresses, and numbers of its own: whatever moves or changes a parameter, a norm or a module must
    not leave the old ones in use."""
    model = load(converted(kind, **FINE))
    ids = torch.randint(0, 256, (1, 4))
    base, block = model.rwkv, model.rwkv.blocks[1]

    def follows(what: str, takes_modules: bool = False) -> None:
        count, found = len(runs), step_by_step(model, ids, 2)
        assert (len(runs) == count) == takes_modules, what
        for one, other in zip(found, step_by_step(long_way(model), ids, 2), strict=True):
            assert close(one, other), what
        assert not all(map(torch.equal, found, first)), what

    first = step_by_step(model, ids, 2)
    names = [name for name, _ in model.named_parameters() if "blocks.0." not in name or "pre_ln" in name]
    assert len(names) > 15
    for name in names:
        parameter = model.get_parameter(name)
        before = parameter.data
        parameter.data = before * 1.5 + 0.2
        follows(name)
        parameter.data = before
        assert all(map(torch.equal, step_by_step(model, ids, 2), first)), name
        with torch.no_grad():
            parameter.mul_(2)
            follows(name)
            parameter.div_(2)

    def weight() -> None:
        other = block.attention.output.weight.clone()
        other[:, 0] = 0x35
        block.attention.output.weight = other

    def scale() -> None:
        block.feed_forward.value.weight_scale *= 1.5

    def epsilon() -> None:
        block.ln1.eps = 10.0

    def module() -> None:
        block.feed_forward.receptance = copy.deepcopy(block.feed_forward.receptance)
        block.feed_forward.receptance.weight_scale *= 3

    def rescaled() -> None:
        model.config.rescale_every = 1
        base.layers_are_rescaled = True  # or the modules would halve integers

    for change in (weight, scale, epsilon, module, *([rescaled] if kind == "rwkv" else [])):
        change()
        follows(change.__name__, change is rescaled)
    model.config.rescale_every = 0
    follows("not rescaled")
    set_execution(model, "unfold")
    follows("unfold", True)


def test_what_takes_the_modules_way(converted: Converted, runs: list[int], tiny_checkpoint: Converted) -> None:
    model = load(converted("rwkv"))
    ids, seen = torch.randint(0, 256, (2, 3)), []
    hook = model.rwkv.blocks[0].feed_forward.value.register_forward_hook(lambda *_: seen.append("value"))
    step_by_step(model, ids, 2)
    hook.remove()
    model(ids)  # gradients
    with torch.inference_mode():
        assert len(model(ids, output_hidden_states=True).hidden_states) == 3
        assert isinstance(model(ids, return_dict=False), tuple)
    assert len(seen) == 3 and not runs and engine_of(model, 3) is None
    for path, why in (
        (converted("rwkv", codec="multihead", layers=3), "step by step"),
        (converted("rwkv", skip=["r"]), "not every linear is converted"),
    ):
        other = load(path)
        found = obstacle(other)
        assert found is not None and why in found.why and found.is_choice and "forward" not in vars(other.rwkv)
    assert "not layers that are known" in obstacle(load(tiny_checkpoint("rwkv"))).why
    assert "bfloat16" in obstacle(load(converted("rwkv"), dtype=torch.bfloat16)).why
    mixed = load(converted("rwkv"))
    mixed.rwkv.blocks[1].ln2.to(torch.bfloat16)
    assert "in 1 of 2 layers" in obstacle(mixed).why
    base = AutoModel.from_pretrained(converted("rwkv")).eval()  # which is its own base, and checks the mask itself
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        base(ids, attention_mask=mask)
        mask[0, 0] = 0
        with pytest.raises(SpikeconvError, match="padded on the left"):
            base(ids, attention_mask=mask)
    assert len(runs) == 1


def test_who_counts_is_told_by_the_engine(kind: str, converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits are those that nobody watched, and the counts those of what the modules read."""
    watched: list[int] = []
    run = integration.run_watched
    monkeypatch.setattr(integration, "run_watched", lambda *arguments: watched.append(1) or run(*arguments))
    for bits in ("8-8", "4-1.58"):
        model = load(converted(kind, bits=bits))
        ids = torch.randint(0, 256, (2, 20))
        expected = step_by_step(model, ids, 3)
        linears = spike_linears(model)
        inputs: dict[str, list[Tensor]] = {}
        for name, linear in linears.items():
            linear.encoder.readers.append(inputs.setdefault(name, []).append)
        watched.clear()
        with KeptCounts(model, list(linears)) as kept, Recorder(model) as recorder:
            found = step_by_step(model, ids, 3)
        assert all(map(torch.equal, found, expected)) and len(watched) == 4
        assert all(totals.tokens == 2 * (20 + 3) for totals in recorder.statistics.values())
        for name, linear in linears.items():
            linear.encoder.readers.clear()
            assert [x.shape[:2] for x in inputs[name]] == [(2, 20), *[(2, 1)] * 3]
            for x, each in zip(inputs[name], kept.kept[name], strict=True):  # what is read is centered already
                assert torch.equal(linear.encoder.encode(x).spikes.counts, each.spikes.counts)
        assert len(inputs) == len(linears) == sum(map(len, recurrent_engine(model).groups))
        read: dict[str, list[Tensor]] = {}
        for name in ("key", "value", "receptance"):  # what the first block reads does not depend on who runs it
            spikes = linears[f"rwkv.blocks.0.attention.{name}"].encoder
            spikes.readers.append(read.setdefault(name, []).append)
        with modules_only(model), torch.inference_mode():
            model(ids)
        for name, (x,) in read.items():
            torch.testing.assert_close(inputs[f"rwkv.blocks.0.attention.{name}"][0], x, rtol=0, atol=1e-5)


def test_what_is_wrong_is_a_sentence(converted: Converted) -> None:
    model = load(converted("rwkv"))
    engine, one = RecurrentEngine(model), torch.tensor([1])
    state, two = engine.state(2), RecurrentSequence(1)
    for tokens, sequences, given, words in (
        (torch.tensor([model.config.vocab_size]), [two], state, "token id 25"),
        (torch.tensor([-1]), [two], state, "token id -1"),
        (one, [RecurrentSequence(1, 2)], state, "slot 2 of 2"),
        (one, [RecurrentSequence(2)], state, "sequences must follow"),
        (torch.tensor([1, 2]), [two, two], state, "two sequences write to the state of slot 0"),
        (one, [two], [part[:, :-1] for part in state], "not one of this model"),
        (one, [two], [part.double() for part in state], "not one of this model"),
        (one, [two], [part.contiguous() for part in state], "does not lie as the engine reads it"),
    ):
        with pytest.raises(RuntimeError, match=words):
            engine.forward(tokens, sequences, given, torch.tensor([0]), logits=True)
    with pytest.raises(RuntimeError, match="logits of token 0 of 1, which are ascending"):
        engine.forward(one, [two], state, torch.tensor([0, 0]), logits=True)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="token id 999"):
        model(torch.tensor([[1, 999]]))
