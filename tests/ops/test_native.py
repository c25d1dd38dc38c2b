"""Native kernels are found, built and chosen; without them the reference gives the same bits."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeconv.ops import build, native


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., native.Backend]:
    """`load` as in a new process with an empty cache folder."""
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path))
    return native._load.__wrapped__


def test_switched_off(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKECONV_NATIVE", "0")
    assert fresh("cpu") == native.Backend("reference", "SPIKECONV_NATIVE=0")


def test_no_compiler(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compiler", lambda: None)
    backend = fresh("cpu")
    assert not backend.is_native and "compiler" in backend.why


def test_sources_that_do_not_compile(fresh: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "src" / "common").mkdir(parents=True)
    (tmp_path / "src" / "cpu").mkdir()
    monkeypatch.setattr(build, "sources", lambda: tmp_path / "src")
    backend = fresh("cpu")
    assert not backend.is_native and "failed: " in backend.why
    assert not list(tmp_path.rglob("*.so")) and not list(tmp_path.rglob(".build-*"))


def test_broken_library(fresh: Any) -> None:
    library = native._cached("cpu")
    library.parent.mkdir(parents=True)
    library.write_bytes(b"not a library")
    native.note_hash(library)  # as a compiler left it
    backend = fresh("cpu")
    assert not backend.is_native and library.name in backend.why


def test_a_changed_library_is_built_again(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library, built = native._cached("cpu"), []
    library.parent.mkdir(parents=True)
    library.write_bytes(b"built")
    native.note_hash(library)
    library.write_bytes(b"changed")

    def build_it(device: str, place: Path) -> None:
        built.append(place)
        raise OSError("enough")

    monkeypatch.setattr(native, "_build", build_it)
    assert fresh("cpu").why == "enough" and built == [library]


def test_several_that_need_a_library_build_it_once(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library, built = native._cached("cpu"), []

    def build_it(place: Path) -> None:
        built.append(place)
        time.sleep(0.2)
        place.write_bytes(b"built")

    monkeypatch.setattr(build, "build_cpu", build_it)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(native._build, ["cpu"] * 4, [library] * 4))
    assert built == [library] and native._is_good(library)


def test_other_devices_have_the_reference() -> None:
    assert not native.load("mps").is_native
    if not torch.cuda.is_available():
        assert native.load("cuda") == native.Backend("reference", "torch sees no GPU")


def test_a_library_belongs_to_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("common", "cpu", "cuda"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.h").write_text("1")
    monkeypatch.setattr(build, "sources", lambda: tmp_path)
    before = {device: build.digest(device) for device in ("cpu", "cuda")}
    (tmp_path / "cuda" / "a.h").write_text("2")
    assert build.digest("cpu") == before["cpu"] and build.digest("cuda") != before["cuda"]
    (tmp_path / "common" / "a.h").write_text("2")
    assert build.digest("cpu") != before["cpu"]


def test_torch_is_found_from_an_isolated_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """There torch cannot be imported, but lies in the environment that pip installs into."""
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    found = build.find_torch()
    assert found is not None and found == Path(torch.__file__).parent


def test_unknown_instruction_set() -> None:
    kernels = native.cpu_kernels()
    assert kernels[-1] == "portable"
    with pytest.raises(ValueError, match="avx1024"):
        native.use_cpu_kernels("avx1024")
    assert native.use_cpu_kernels("auto") == kernels[0]


LOGITS = """
import sys, torch, spikeconv
from transformers import AutoModelForCausalLM
from spikeconv.integrations.engine import modules_only
from spikeconv.ops import native
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
print(native.load("cpu").name)
torch.manual_seed(0)
with torch.inference_mode(), modules_only(model):
    torch.save(model(torch.randint(0, 50, (2, 9)), use_cache=False).logits, sys.argv[2])
"""


def run_python(code: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("bits", ["4-1.58", "4-1"])
def test_a_model_has_the_same_logits_without_native_kernels(
    bits: str, converted: Callable[..., Path], tmp_path: Path
) -> None:
    path = converted("llama", bits=bits)
    assert "native" in run_python(LOGITS, path, tmp_path / "native.pt")
    assert "reference" in run_python(LOGITS, path, tmp_path / "reference.pt", SPIKECONV_NATIVE="0")
    assert torch.equal(torch.load(tmp_path / "native.pt"), torch.load(tmp_path / "reference.pt"))


BY_ITSELF = """
import sys, threading, torch, spikeconv
from transformers import AutoModelForCausalLM
from spikeconv.engine import kinds
from spikeconv.integrations import engine, fallbacks
from spikeconv.nn import layout, spike_linears
from spikeconv.ops import library, native
native_kernel = lambda op: torch._C._dispatch_has_kernel_for_dispatch_key(f"spikeconv::{op}", "CPU")
elsewhere = native.Backend("reference", "as if on another device")
layout.ready = kinds.load = engine.load = fallbacks.load = lambda device: elsewhere
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
print("loaded:", native_kernel("encode"), {linear.layout for linear in spike_linears(model).values()})
ids, logits = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0)), []
def forward():
    with torch.inference_mode():
        logits.append(model(ids, use_cache=False).logits)
threads = [threading.Thread(target=forward) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("called:", native_kernel("encode"), native_kernel("linears"))
library.encoding.clip_potential = None  # the reference would need it
forward()
torch.save(logits[-1], sys.argv[2])
print("equal:", len(logits) == 5 and all(torch.equal(one, logits[0]) for one in logits))
"""


def test_ops_load_their_back_end_by_themselves(converted: Callable[..., Path], tmp_path: Path) -> None:
    path = converted("llama")
    lines = run_python(BY_ITSELF, path, tmp_path / "itself.pt").splitlines()
    assert lines == ["loaded: False {'packed'}", "called: True True", "equal: True"]
    run_python(LOGITS, path, tmp_path / "native.pt")
    assert torch.equal(torch.load(tmp_path / "itself.pt"), torch.load(tmp_path / "native.pt"))


FALLING_BACK = """
import sys, warnings, torch, spikeconv
from transformers import AutoModelForCausalLM
from spikeconv.ops import build
build.compiler = lambda: None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
    with torch.inference_mode():
        for _ in range(2):
            model(torch.tensor([[1, 2, 3]]))
print([(w.category.__name__, str(w.message)) for w in caught if "kernels" in str(w.message)])
"""


def test_a_fallback_says_so_once(converted: Callable[..., Path], tmp_path: Path) -> None:
    path, cache = converted("llama"), str(tmp_path)
    found = run_python(FALLING_BACK, path, SPIKECONV_CACHE=cache)
    assert found.count("SpikeconvWarning") == 1 and "compiler" in found and "SPIKECONV_NATIVE=0" in found
    assert run_python(FALLING_BACK, path, SPIKECONV_CACHE=cache, SPIKECONV_NATIVE="0") == "[]\n"


SANITIZED = ("test_accumulate", "test_attend", "test_encode", "test_group_plan", "test_linears", "test_packing")


@pytest.mark.slow
def test_kernels_are_clean_under_the_sanitizers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer over the tests of the ops and of the engine."""
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path))
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1", "-O1"]  # half the time of -O3
    build.build_cpu(native._cached("cpu"), flags)
    native.note_hash(native._cached("cpu"))
    compiler = build.compiler()
    assert compiler is not None
    preloaded = [
        subprocess.check_output([compiler, f"-print-file-name={name}.so"], text=True).strip()
        for name in ("libasan", "libubsan")
    ]
    here = Path(__file__).parent
    names = ("test_engine", "test_engine_counts", "test_engine_recurrent", "test_engine_states", "test_head")
    engine = (str(here.parent / f"integrations/{name}.py") for name in names)
    tests = [*(str(here / f"{name}.py") for name in SANITIZED), str(here.parent / "weights"), *engine]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "not reference and not threads and not forked"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    environment = {**os.environ, "LD_PRELOAD": " ".join(preloaded), "ASAN_OPTIONS": "detect_leaks=0"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " passed" in result.stdout
