"""The wheel carries the kernels where they can be built, and is built all the same where they cannot."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "kernels"))

import hatch_build  # noqa: E402


def run_hook(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, cpu: Any, cuda: Any, nvcc: str | None
) -> dict[str, Any]:
    """The build data after the hook, with stand-ins for the compilers."""

    class BuildError(Exception):
        pass

    def compile_with(outcome: Any) -> Any:
        def compile_to(library: Path, *_: object) -> None:
            if isinstance(outcome, str):
                raise BuildError(outcome)
            library.parent.mkdir(parents=True, exist_ok=True)
            library.write_bytes(b"")

        return compile_to

    fake = SimpleNamespace(
        BuildError=BuildError, build_cpu=compile_with(cpu), build_cuda=compile_with(cuda), cuda_compiler=lambda: nvcc
    )
    monkeypatch.setattr(hatch_build, "_load", lambda path: fake)
    hook = hatch_build.NativeKernels(str(ROOT), {}, None, None, str(tmp_path), "wheel")  # type: ignore[arg-type]
    data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    hook.initialize(version, data)
    return data


def test_both_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = run_hook(monkeypatch, tmp_path, "standard", None, None, "nvcc")
    assert sorted(data["force_include"].values()) == [
        "spikeconv/_native/libspikeconv_cpu.so",
        "spikeconv/_native/libspikeconv_cuda.so",
    ]
    assert not data["pure_python"] and data["tag"].startswith("py3-none-")


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_hook(monkeypatch, tmp_path, "standard", "no C++ compiler was found", None, None)
    assert data == {"force_include": {}, "pure_python": True}
    assert "first use (no C++ compiler was found)" in capsys.readouterr().err


def test_cuda_that_does_not_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = run_hook(monkeypatch, tmp_path, "standard", None, "nvcc failed", "nvcc")
    assert list(data["force_include"].values()) == ["spikeconv/_native/libspikeconv_cpu.so"]


def test_an_editable_installation_builds_at_first_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run_hook(monkeypatch, tmp_path, "editable", None, None, "nvcc")["force_include"] == {}


def test_the_build_script_needs_only_the_standard_library() -> None:
    import subprocess

    code = "import sys; sys.path.insert(0, sys.argv[1]); import build; print(build.compiler() or 'none')"
    folder = ROOT / "spikeconv" / "ops"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(folder)], check=True, capture_output=True)
