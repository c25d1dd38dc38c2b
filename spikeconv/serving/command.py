"""The command line that starts vLLM's server for a checkpoint: what is known of it becomes vLLM's options."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from spikeconv.checkpoint.format import read_settings, zero_shares
from spikeconv.errors import SpikeconvError
from spikeconv.serving.layers import check_split, fused_linears
from spikeconv.sources.json_file import read_json
from spikeconv.sources.model_config import hf_config

__all__ = ["check_servable", "plugins_with_ours", "serve_command"]

SERVER = ("-m", "vllm.entrypoints.cli.main", "serve")
PLUGINS = "VLLM_PLUGINS"


def serve_command(
    checkpoint: Path,
    *,
    dtype: str = "auto",
    ranks: int = 1,
    host: str | None = None,
    port: int | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """The words of `vllm serve`, in the Python that runs now; `options` come last, and so decide.

    Args:
        checkpoint: a converted one.
        dtype: of what stays float; "auto" is the checkpoint's own, where vLLM would round float32.
        ranks: of tensor parallelism.
        host, port: to listen at; None leaves vLLM's.
        options: vLLM's own, as they are.

    Raises:
        SpikeconvError: vLLM cannot run that checkpoint so.
    """
    own = check_servable(checkpoint, ranks)
    chosen = {
        "--dtype": own if dtype == "auto" else dtype,
        "--served-model-name": checkpoint.resolve().name,
        "--tensor-parallel-size": None if ranks == 1 else str(ranks),
        "--host": host,
        "--port": None if port is None else str(port),
    }
    words = [word for name, value in chosen.items() if value is not None for word in (name, value)]
    return [sys.executable, *SERVER, str(checkpoint), *words, *options]


def check_servable(checkpoint: Path, ranks: int = 1) -> str:
    """The dtype of what stays float, if vLLM can run a checkpoint over so many ranks.

    Raises:
        SpikeconvError: it cannot.
    """
    config = read_json(checkpoint / "config.json")
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping):
        raise SpikeconvError(f"{checkpoint} is not converted: its config.json has no quantization_config.")
    model = hf_config(config)
    fused_linears(read_settings(settings), model, zero_shares(settings))
    check_split(model, ranks)
    return str(model.dtype).removeprefix("torch.") if model.dtype is not None else "auto"


def plugins_with_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment must change so that vLLM loads the plug-in, where only some plug-ins are allowed."""
    allowed = environment.get(PLUGINS)
    if allowed is None or "spikeconv" in allowed.split(","):
        return {}
    return {PLUGINS: ",".join(name for name in (*allowed.split(","), "spikeconv") if name)}
