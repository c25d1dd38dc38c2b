"""The engine computes what the modules do: bit for bit between sums of floats, and through any cache."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_runs import CLOSE, COUNTED, FINE, Converted, close, load, long_way, step_by_step
from torch import Tensor
from transformers.cache_utils import StaticCache

from spikeconv.engine import CHUNK, Engine, Sequence
from spikeconv.errors import SpikeconvError, SpikeconvWarning
from spikeconv.integrations import engine as integration
from spikeconv.integrations.memory import memory_keyword, memory_of
from spikeconv.nn import set_execution, spike_linears
from spikeconv.ops.native import cpu_kernels, use_cpu_kernels
from spikeconv.ops.native import load as load_kernels
from spikeconv.record.recorder import Recorder
from spikeconv.record.watching import KeptCounts
from spikeconv.verification.engine import compare_engine
from spikeconv.verification.result import VerifyResult

pytestmark = pytest.mark.skipif(not load_kernels("cpu").is_native, reason="the engine is native code")


@pytest.mark.parametrize("bits", ["4-1.58", "4-1"])
def test_layer_by_layer(transformer: str, bits: str, converted: Converted, threads: Callable[[int], None]) -> None:
    """Given the same inputs: counts and accumulators to the bit, on every instruction set and any number of threads."""
    model = load(converted(transformer, bits=bits))
    ids = torch.randint(0, 50, (1, 61))
    for kernels in cpu_kernels():
        use_cpu_kernels(kernels)
        logits = []
        for number in (1, 2, 3):
            threads(number)
            result = VerifyResult()
            compare_engine(model, ids, result)
            assert not result.different_in_engine and result.engine_outputs > 61 * model.config.hidden_size * 8
            assert 0 < (result.engine_error or 0) < 5e-6
            engine = Engine(model)
            logits.append(engine.forward(ids[0], [Sequence(61)], engine.cache(1, 61), torch.tensor([60]), logits=True))
        assert all(torch.equal(each, logits[0]) for each in logits)


@pytest.mark.parametrize("padding", [False, True])
def test_through_any_cache(transformer: str, padding: bool, converted: Converted, runs: list[int]) -> None:
    """A prompt, tokens one by one, cropped, reordered, gone on with: what the modules give."""
    model = load(converted(transformer, **FINE))
    plain = long_way(model)
    ids, mask = torch.randint(0, 50, (3, 40)), torch.ones(3, 40, dtype=torch.long)
    if padding:
        mask[0, :17], mask[2, :1] = 0, 0
    both = [step_by_step(each, ids, 4, mask if padding else None) for each in (model, plain)]
    assert len(runs) == 5
    for one, other in zip(*both, strict=True):
        real = mask.bool() if one.shape[1] > 1 else torch.ones(3, 1, dtype=torch.bool)
        assert close(one[real], other[real])
    results = []
    for each in (model, plain):
        with torch.inference_mode():
            cache, more = memory_of(each, each(ids, use_cache=True)), ids
            each(ids[:, :3], **{memory_keyword(each): cache}, use_cache=True)
            if transformer != "mistral":  # its own cache forgets what is outside of the window
                cache.crop(-2)
                cache.reorder_cache(torch.tensor([1, 2, 0]))
                cache.batch_select_indices(torch.tensor([0, 1]))
                more = ids[:2]
            results.append(each(more[:, :5], **{memory_keyword(each): cache}, use_cache=True).logits)
    assert close(*results)


@pytest.mark.parametrize("counted", [{}, {"kv_bits": 8}])
def test_generates_and_goes_on_by_itself(counted: dict[str, Any], converted: Converted, runs: list[int]) -> None:
    """`generate`, greedy, sampled and by beams, from a model that nobody else holds any more."""
    path = converted("llama", **FINE, **counted)
    ids = torch.randint(0, 50, (2, 9))
    for settings in ({"do_sample": False}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}):
        tokens = []
        for way in (lambda model: model, long_way):
            generate = way(load(path)).generate
            gc.collect()
            torch.manual_seed(0)
            tokens.append(generate(ids, max_new_tokens=6, pad_token_id=0, **settings))
        assert torch.equal(*tokens)
    assert len(runs) == 3 * 6


@pytest.mark.parametrize("counted", [{}, {"kv_bits": 8}])
def test_long_texts_and_many_at_once(counted: dict[str, Any], converted: Converted) -> None:
    """In pieces, in a ragged batch, in bfloat16 states: as one by one. What is wrong is an error, not a crash."""
    model = load(converted("llama", **FINE, **counted))
    engine = Engine(model, 2048)
    lengths = [CHUNK + 70, 3, 90, CHUNK]
    texts = [torch.randint(0, 50, (n,)) for n in lengths]
    ends = torch.tensor(lengths).cumsum(0) - 1
    cache = engine.cache(4, max(lengths))
    sequences = [Sequence(n, slot) for slot, n in enumerate(lengths)]
    together = engine.forward(torch.cat(texts), sequences, cache, ends, logits=True)
    for dtype, bound in ((torch.float32, CLOSE), (torch.bfloat16, 3 * CLOSE)):
        for row, text in enumerate(texts):
            alone = engine.forward(
                text,
                [Sequence(len(text))],
                engine.cache(1, len(text), dtype),
                torch.tensor([len(text) - 1]),
                logits=True,
            )
            assert (alone[0] - together[row]).abs().max() <= bound * together[row].abs().max()
    one = torch.tensor([1])
    for tokens, sequence, words in (
        (torch.tensor([model.config.vocab_size]), Sequence(1), "token id"),
        (torch.tensor([-1]), Sequence(1), "token id -1"),
        (one, Sequence(1, at=max(lengths)), "more than the cache holds"),
        (one, Sequence(1, slot=4), "slot 4 of 4"),
        (one, Sequence(1, position=2048), "position 2048"),
        (one, Sequence(2), "sequences"),
        (one, Sequence(1, at=3, first=2, fork=1, gap=1), "forks behind key 1"),
        (one, Sequence(1, at=3, fork=4, gap=1), "forks behind key 4"),
        (one, Sequence(1, gap=-1), "gap of -1"),
        (one, Sequence(1, gap=max(lengths)), "more than the cache holds"),
    ):
        with pytest.raises(RuntimeError, match=words):
            engine.forward(tokens, [sequence], cache, torch.tensor([0]), logits=True)


def test_texts_that_share_a_beginning(transformer: str, converted: Converted) -> None:
    """Behind one another in one slot, cut anywhere, reading what another wrote in the same call: the bits of a text."""
    shared, endings = torch.randint(0, 50, (160,)), torch.randint(0, 50, (3, 60))
    ways = (({}, torch.float32), ({}, torch.bfloat16), *((counted, torch.uint8) for counted in COUNTED))
    for settings, dtype in ways:
        engine = Engine(load(converted(transformer, **settings)))
        for length in (engine.fewest, 10, 43, 47, 48, 49, 96, 160):
            texts = [torch.cat((shared[:length], ending)) for ending in endings]
            tokens, sequences, row = shared[:length], [Sequence(length, at=5, first=5)], 5 + length
            for ending in endings:
                at = 5 + length
                sequences.append(Sequence(60, 0, at, first=5, position=length, fork=at, gap=row - at))
                tokens, row = torch.cat((tokens, ending)), row + 60
            cache = engine.cache(1, row, dtype)
            together = engine.forward(tokens, sequences, cache, torch.arange(len(tokens)), logits=False)
            for i, text in enumerate(texts):
                alone = engine.cache(1, len(text), dtype)
                whole = engine.forward(text, [Sequence(len(text))], alone, torch.arange(len(text)), logits=False)
                begin = length + 60 * i
                assert torch.equal(torch.cat((together[:length], together[begin : begin + 60])), whole)
    with pytest.raises(RuntimeError, match="the same places of slot 0"):
        engine.forward(tokens[:4], [Sequence(2), Sequence(2, at=1)], cache, torch.tensor([0]), logits=False)


def test_keys_and_values_in_bfloat16(converted: Converted) -> None:
    model = load(converted("qwen2", **FINE))
    ids = torch.randint(0, 50, (2, 70))
    expected = step_by_step(model, ids, 3)
    integration.set_cache_dtype(model, torch.bfloat16)
    for kept in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found = step_by_step(kept, ids, 3)
        for one, other in zip(found, expected, strict=True):
            assert (one - other).abs().max() <= 3 * CLOSE * other.abs().max()
        assert not all(map(torch.equal, found, expected))
        with torch.inference_mode():
            layer = memory_of(kept, kept(ids, use_cache=True)).layers[0]
        assert layer.keys.dtype == layer.values.dtype == torch.bfloat16
    integration.set_cache_dtype(model, torch.float32)
    assert all(map(torch.equal, step_by_step(model, ids, 3), expected))
    with pytest.raises(SpikeconvError, match="float16"):
        integration.set_cache_dtype(model, torch.float16)
    for other in (load(converted("llama", kv_bits=4)), load(converted("rwkv")), long_way(model)):
        with pytest.raises(SpikeconvError, match="no float keys and values"):
            integration.set_cache_dtype(other, torch.bfloat16)


def test_changes_are_seen(converted: Converted, runs: list[int]) -> None:
    """The plan holds addresses: whatever moves a weight, a norm or a module must not leave the old ones in use."""
    model = load(converted("llama", **FINE))
    ids = torch.randint(0, 50, (1, 4))
    layer = model.model.layers[0]

    def weight() -> None:
        other = layer.mlp.down_proj.weight.clone()
        other[:, 0] = 0x35
        layer.mlp.down_proj.weight = other

    def in_place() -> None:
        layer.self_attn.o_proj.weight_scale *= 1.5

    def norm() -> None:
        layer.input_layernorm.weight.data = layer.input_layernorm.weight * 2

    def last_norm() -> None:
        model.model.norm.weight.data = model.model.norm.weight * -3

    def embedding() -> None:
        model.model.embed_tokens.weight.data = model.model.embed_tokens.weight.flip(0)

    def trained() -> None:
        model.model.embed_tokens.weight.data.zero_()  # not counted as a change
        with torch.no_grad():
            model.model.embed_tokens.weight.add_(torch.randn(model.model.embed_tokens.weight.shape))

    def scaling() -> None:
        for each in model.model.layers:
            each.self_attn.scaling *= 40

    def angles() -> None:
        model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq * 3

    def fewer() -> None:
        model.config.num_hidden_layers = 1

    def all_again() -> None:
        model.config.num_hidden_layers = 2

    def epsilon() -> None:
        layer.input_layernorm.epsilon = 100.0

    def unfold() -> None:
        set_execution(model, "unfold")

    def module() -> None:
        layer.mlp.act_fn = torch.nn.GELU()

    before = step_by_step(model, ids, 2)
    modules = (fewer, unfold, module)
    changes = (weight, in_place, norm, last_norm, embedding, trained, scaling, angles, epsilon, fewer, all_again)
    for change in (*changes, unfold, module):
        count = len(runs)
        change()
        after = step_by_step(model, ids, 2)
        assert change is unfold or not close(after[2], before[2]), change.__name__
        assert (len(runs) == count) == (change in modules)
        for one, other in zip(after, step_by_step(long_way(model), ids, 2), strict=True):
            assert close(one, other), change.__name__
        before = after


def test_who_watches_takes_the_modules_way(converted: Converted, runs: list[int]) -> None:
    model = load(converted("llama"))
    ids, seen = torch.randint(0, 50, (2, 3)), []
    hook = model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: seen.append("down"))
    step_by_step(model, ids, 2)
    hook.remove()
    model(ids)  # gradients
    with torch.inference_mode():
        assert len(model(ids, output_hidden_states=True).hidden_states) == 3
        with pytest.warns(SpikeconvWarning, match="StaticCache"):
            model(ids, **{memory_keyword(model): StaticCache(config=model.config, max_cache_len=8)}, use_cache=True)
        mask = torch.ones(2, 3, dtype=torch.long)
        mask[0, 1] = 0
        with pytest.warns(SpikeconvWarning, match="padding on the left"):
            model(ids, attention_mask=mask)
    assert len(seen) == 3 and not runs


def test_who_counts_is_told_by_the_engine(converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits are those that nobody watched, and the counts those of what the modules read."""
    watched: list[int] = []
    run = integration.run_watched
    monkeypatch.setattr(integration, "run_watched", lambda *arguments: watched.append(1) or run(*arguments))
    for bits in ("8-8", "4-1.58"):
        model = load(converted("qwen3", bits=bits))
        ids = torch.randint(0, 50, (2, 20))
        inputs: dict[str, list[Tensor]] = {}
        expected = step_by_step(model, ids, 3)
        with torch.inference_mode():
            alone = model(ids, use_cache=False).logits
        names = [name for name in spike_linears(model) if name.endswith(("q_proj", "down_proj"))]
        encoders = [spike_linears(model)[name].encoder for name in names]
        watched.clear()
        for name, encoder in zip(names, encoders, strict=True):
            encoder.readers.append(inputs.setdefault(name, []).append)
        with KeptCounts(model, names) as kept, Recorder(model) as recorder:
            found = step_by_step(model, ids, 3)
            with torch.inference_mode():
                assert torch.equal(model(ids, use_cache=False).logits, alone)
        for encoder in encoders:
            encoder.readers.clear()
        assert all(map(torch.equal, found, expected)) and len(watched) == 5
        assert all(totals.tokens == 2 * (20 + 3 + 20) for totals in recorder.statistics.values())
        for name, encoder in zip(names, encoders, strict=True):
            read = inputs[name]
            assert [x.shape[:2] for x in read] == [(2, 20), *[(2, 1)] * 3, (2, 20)]
            assert all(
                torch.equal(encoder(x).spikes.counts, k.spikes.counts)
                for x, k in zip(read, kept.kept[name], strict=True)
            )
        first = spike_linears(model)[names[0]].encoder
        with torch.inference_mode():  # what the first linears read is a token's embedding, whoever runs them
            x = model.model.embed_tokens(ids)
        assert torch.equal(first(x).spikes.counts, kept.kept[names[0]][0].spikes.counts)
        mask = torch.ones(2, 20, dtype=torch.long)
        mask[0, :3] = 0
        with torch.inference_mode(), Recorder(model) as padded:
            model(ids, attention_mask=mask)
        assert all(totals.tokens == 40 for totals in padded.statistics.values())  # padding too, as the modules count
        assert len(watched) == 5


def test_several_models_and_callers_at_once(converted: Converted) -> None:
    models = [load(converted(family)) for family in ("llama", "qwen2")]
    ids = torch.randint(0, 50, (2, 30))
    expected = [step_by_step(model, ids, 3) for model in models]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            found = step_by_step(models[number % 2], ids, 3)
            if not all(map(torch.equal, found, expected[number % 2])):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


FORKS = """
import os, sys
import spikeconv, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
def logits():
    with torch.inference_mode():
        return model(torch.arange(30)[None] % 50, use_cache=True).logits
torch.set_num_threads(2)
expected = logits()
if (child := os.fork()) == 0:
    same = False
    try:
        same = torch.equal(logits(), expected)
    finally:
        os._exit(0 if same else 1)
sys.exit(os.waitpid(child, 0)[1])
"""


def test_process_that_was_forked_from_one_with_an_engine(converted: Converted) -> None:
    subprocess.run([sys.executable, "-c", FORKS, converted("llama")], check=True, timeout=300)
