import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spikeconv.checkpoint.format import RECORD
from spikeconv.data import hub
from spikeconv.data.offline import OFFLINE_TASKS, ROWS
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate import tasks
from spikeconv.evaluate.models import LoadedModel
from spikeconv.evaluate.perplexity import PerplexityResult
from spikeconv.evaluate.results import EvaluationResult, TaskResult
from spikeconv.evaluate.stored import (
    float_digest,
    result_path,
    save_perplexity,
    save_results,
    stored_results,
    text_question,
)
from spikeconv.evaluate.tasks import choose_data, evaluate_tasks, offline_task, parse_settings, resolve_tasks
from spikeconv.progress import silent

COUNTS = {
    "piqa": 1838,
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "boolq": 3270,
    "hellaswag": 10042,
    "winogrande": 1267,
    "openbookqa": 500,
    "sciq": 1000,
    "social_iqa": 1954,
    "copa": 100,
    "lambada_openai": 5153,
}


def test_names() -> None:
    paper = ("piqa", "arc_easy", "arc_challenge", "boolq", "hellaswag", "winogrande")
    assert resolve_tasks() == resolve_tasks(suite="sdllm") == paper
    assert resolve_tasks("piqa, arc,arc_easy") == ("piqa", "arc_easy", "arc_challenge")
    assert resolve_tasks("copa", "sdllm") == (*paper, "copa")
    assert resolve_tasks("mmlu,ai2_arc,wikitext") == ("mmlu", "ai2_arc", "wikitext")  # group, tag, other task


@pytest.mark.parametrize(
    ("names", "suite", "message"),
    [
        ("piqqa", None, "no task 'piqqa'; did you mean piqa"),
        ("helaswag,piqa", None, "did you mean hellaswag"),
        ("mmlu_anatomi", None, "did you mean .*mmlu_anatomy"),
        ("", None, "names no task"),
        (None, "paper", "no suite 'paper'.*sdllm"),
    ],
)
def test_unknown_names(names: str | None, suite: str | None, message: str) -> None:
    with pytest.raises(SpikeconvError, match=message):
        resolve_tasks(names, suite)


def test_source_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "hub_reachable", lambda: True)
    assert choose_data("auto", ["piqa"]) == choose_data("hub", ["mmlu"]) == "hub"
    assert choose_data("offline", ["piqa"]) == "offline"
    monkeypatch.setattr(tasks, "hub_reachable", lambda: False)
    assert choose_data("auto", ["piqa"]) == "offline"
    with pytest.raises(SpikeconvError, match=r"cannot be reached.*no offline data for mmlu.*piqa"):
        choose_data("auto", ["piqa", "mmlu"])
    with pytest.raises(SpikeconvError, match="auto, hub or offline"):
        choose_data("web", ["piqa"])


def test_hub_that_is_off_or_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert not hub.hub_reachable()  # nothing listens there
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert not hub.hub_reachable(timeout=0.2)  # accepts, but never answers
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(hub.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the hub"))
        assert not hub.hub_reachable()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("limit", 0, "--limit must be at least 1, not 0"),
        ("num_fewshot", -1, "--num-fewshot must be at least 0"),
        ("batch_size", "many", "--batch-size must be auto or a number"),
        ("batch_size", "0", "--batch-size"),
    ],
)
def test_settings_out_of_range(option: str, value: int | str, message: str) -> None:
    settings = {"limit": None, "num_fewshot": None, "batch_size": "auto", option: value}
    with pytest.raises(SpikeconvError, match=message):
        parse_settings(**settings)


def test_batches_hold_a_bounded_number_of_tokens() -> None:
    from lm_eval.models.utils import Collator

    from spikeconv.integrations.lm_eval import CPU_BATCH_TOKENS, HarnessModel

    harness = HarnessModel.__new__(HarnessModel)
    harness._device = SimpleNamespace(type="cpu")
    harness._max_length = 4096
    lengths = [900, 300, 200, 60, 50, 40, *[30] * 40, *[5] * 200]
    requests = [("", [0] * length, [0]) for length in lengths]
    batches = list(Collator.get_chunks(requests, fn=harness._batch_scheduler))
    padded = [len(batch) * (len(batch[0][1]) + 1) for batch in batches]
    assert sum(map(len, batches)) == len(lengths)
    assert [len(batch) for batch in batches[:2]] == [1, 1]
    assert max(padded[1:]) <= CPU_BATCH_TOKENS
    assert min(padded[1:-1]) > CPU_BATCH_TOKENS / 2


def test_an_lm_eval_with_other_internals_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced methods that it no longer calls would let it read the scores from the wrong logits."""
    from lm_eval.models.huggingface import HFLM

    from spikeconv.integrations.lm_eval import HarnessModel
    from spikeconv.progress import silent

    monkeypatch.delattr(HFLM, "_select_cont_toks")
    nothing: Any = None
    with pytest.raises(SpikeconvError, match="has no _select_cont_toks"):
        HarnessModel(nothing, nothing, 1, silent)


def test_tokens_of_another_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.models.huggingface import HFLM

    from spikeconv.integrations.lm_eval import HarnessModel

    text_config = SimpleNamespace(vocab_size=258)
    harness = HarnessModel.__new__(HarnessModel)
    harness._model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text_config))
    for ids, is_fine in (([1, 257], True), ([1, 258], False), ([-1], False), ([], True)):
        monkeypatch.setattr(HFLM, "tok_encode", lambda *_, ids=ids, **__: ids)
        if is_fine:
            assert harness.tok_encode("text") == ids
        else:
            with pytest.raises(SpikeconvError, match="tokens 0 to 257: they do not belong together"):
                harness.tok_encode("text")


def test_results_file(tmp_path: Path) -> None:
    score = TaskResult("piqa", "acc_norm", 0.5, None, 4, "validation", {"acc": 0.25, "acc_norm": 0.5})
    bits = TaskResult("wikitext", "word_perplexity", 9.0, None, 4, "test", {"word_perplexity": 9.0})
    result = EvaluationResult((score, score), "offline", 2.0, 100, {"results": {"x": float("nan"), "f": len}})
    assert (result.average, result.tokens_per_second) == (0.5, 50)
    assert EvaluationResult((score, bits), "hub", 1.0, 1, {}).average is None
    path = result_path(tmp_path, ["piqa", "copa"], 4, 5)
    assert path == tmp_path / "eval" / "piqa-copa-5shot-limit4.json"
    save_results(path, result, result)
    content = json.loads(path.read_text())
    assert content["results"]["x"] is None
    assert content["spikeconv"]["tasks"]["piqa"]["value"] == 0.5
    assert content["baseline"]["spikeconv"] == content["spikeconv"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(OSError, match="exists"):  # the command line makes a warning of it
        save_results(path / "below.json", result)


def test_only_results_of_the_very_checkpoint_are_found(converted: Callable[..., Path], tmp_path: Path) -> None:
    model, source = tmp_path / "model", tmp_path / "float"
    shutil.copytree(converted("llama"), model)
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"1234")
    score = TaskResult("piqa", "acc_norm", 0.5, 0.1, 4, "validation", {"acc": 0.25, "acc_norm": 0.5})
    result = EvaluationResult((score,), "offline", 2.0, 100, {"results": {}}, "float32", "cpu")
    read = PerplexityResult(9.0, 1.5, 31, 32, 1.0, 120, "float32", "cpu")
    asked = text_question("some text", "/home/me/text.txt", 32, None)
    path = result_path(model, ["piqa"], 4, None)
    save_results(path, result, result, checkpoint=model, source=source, limit=4)
    written = save_perplexity(model, asked, read)
    assert "/home" not in written.read_text() and str(tmp_path) not in path.read_text()
    by_hand = model / "eval" / "by-hand.json"
    by_hand.write_text("{}")
    found = stored_results(model)
    assert {each.name: each.value for each in found.results} == {"piqa": 0.5, "perplexity": 9.0}
    assert [each.value for each in found.baseline[float_digest(source)]] == [0.5] and found.others == (by_hand,)
    # What was asked decides which numbers answer the same question, and not what a text is called.
    renamed = replace(found.results[0], asked={**found.results[0].asked, "label": "again"})
    other = replace(found.results[0], asked={**found.results[0].asked, "limit": 3})
    assert renamed.question == found.results[0].question != other.question
    (source / "model.safetensors").write_bytes(b"12345")
    assert float_digest(source) not in found.baseline
    # A copy is the same checkpoint; one with another setting, or another tensor, is not.
    for name, change in (
        ("copy", lambda record, config: None),
        ("steps", lambda record, config: config["quantization_config"]["inputs"].update(bits=3)),
        ("noted", lambda record, config: config["quantization_config"].update(zero_share={"a": 0.5})),
        ("tensor", lambda record, config: record["tensors"].update({next(iter(record["tensors"])): "0"})),
    ):
        other = tmp_path / name
        shutil.copytree(model, other)
        record, config = (json.loads((other / file).read_text()) for file in (RECORD, "config.json"))
        change(record, config)
        for file, value in ((RECORD, record), ("config.json", config)):
            (other / file).write_text(json.dumps(value))
        kept = len(stored_results(other).results)
        assert kept == (2 if name in ("copy", "noted") else 0) and len(stored_results(other).others) == 3 - kept


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE_TASKS)
def test_offline_documents(name: str) -> None:
    task = offline_task(name)
    assert len(task.eval_docs) == COUNTS[name]
    task.set_config("num_fewshot", 0)
    task.build_all_requests(limit=3)
    assert all(len(instance.arguments[0]) > 10 for instance in task.instances)


@pytest.mark.slow
def test_boolq_is_the_original_with_titles() -> None:
    task = OFFLINE_TASKS["boolq"]
    original = replace(task, validation=f"{ROWS}/boolq/none").load()["validation"]
    for row, source in zip(task.load()["validation"], original, strict=True):
        assert row["passage"].endswith(f" -- {source['passage']}")
        assert (row["question"], row["label"]) == (source["question"], int(source["answer"]))


def essence(row: dict[str, Any]) -> tuple[str, list[str], int]:
    """What a prompt shows of a row, and the right answer."""
    question = row["question"] if "question" in row else row["question_stem"]
    return question, row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])


@pytest.mark.slow
def test_rows_recovered_from_requests_are_the_originals() -> None:
    for name in ("arc_easy", "arc_challenge", "openbookqa"):
        task = OFFLINE_TASKS[name]
        splits = replace(task, test=task.test.replace("test_", "val_")).load()
        original, recovered = splits["validation"], splits["test"]
        assert len(recovered) == len(original)
        by_id = {row["id"]: essence(row) for row in recovered}
        assert all(by_id[row["id"]] == essence(row) for row in original)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copa", "hellaswag", "arc_easy"])
def test_a_document_is_never_its_own_example(name: str) -> None:
    task = offline_task(name)
    task.set_config("num_fewshot", 90)
    task.set_fewshot_seed(1234)
    task.build_all_requests(limit=5)
    for instance, doc in {i.doc_id: (i, i.doc) for i in task.instances}.values():
        context = instance.arguments[0]
        assert context.count(task.doc_to_text(doc)) == 1
        assert context.count(task.config.fewshot_delimiter) >= 90


@pytest.mark.slow
def test_evaluation_runs_without_a_hub(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("went to the network"))
    seen: list[int] = []

    def track(items: object, description: str, total: int | None = None) -> object:
        for item in items:
            yield item
            seen.append(item)

    names = ("piqa", "boolq", "lambada_openai")
    result = evaluate_tasks(tiny, names, data="offline", limit=4, track=track)
    assert [task.name for task in result.tasks] == list(names)
    assert [task.metric for task in result.tasks] == ["acc_norm", "acc", "acc"]
    assert [task.n for task in result.tasks] == [4, 4, 4]
    assert [task.split for task in result.tasks] == ["validation", "validation", "test"]
    assert result.average is not None
    assert len(seen) == 4 * 2 + 4 * 2 + 4
    assert result.tokens > 1000
    assert capfd.readouterr() == ("", "")
    again = evaluate_tasks(tiny, names, data="offline", limit=4, batch_size=1, track=silent)
    assert [task.metrics for task in again.tasks] == [task.metrics for task in result.tasks]
    assert again.tokens < result.tokens  # no padding
    one = evaluate_tasks(tiny, ["piqa"], data="offline", limit=1, num_fewshot=2)
    assert one.tasks[0].stderr is None
    assert one.raw["n-shot"]["piqa"] == 2
