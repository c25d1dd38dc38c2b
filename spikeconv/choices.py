"""What devices, dtypes and executions are called; checked without torch, so that a typo is told at once."""

import re

from spikeconv.errors import SpikeconvError
from spikeconv.suggest import did_you_mean

__all__ = [
    "DTYPES",
    "EXECUTIONS",
    "check_cache_dtype",
    "check_device",
    "check_dtype",
    "check_engine",
    "check_execution",
    "check_temperature",
]

EXECUTIONS = ("dense", "events", "unfold")
DTYPES = ("float32", "bfloat16", "float16")
CACHE_DTYPES = ("float32", "bfloat16")
ENGINES = ("transformers", "vllm")
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


def check_device(name: str) -> None:
    """Check that a device may be there; whether it is, torch knows.

    Raises:
        SpikeconvError: there is no such kind of device.
    """
    if name == "meta":
        raise SpikeconvError("Nothing can be computed on the meta device; choose auto, cpu, cuda or cuda:N.")
    kind = re.fullmatch(r"([a-z]+)(:\d+)?", name)
    if kind is None or kind[1] not in DEVICES or (kind[1] == "auto" and kind[2]):
        hint = did_you_mean(name, DEVICES)
        raise SpikeconvError(f"Unknown device {name!r}.{hint} Choose auto, cpu, cuda or cuda:N.")


def check_dtype(name: str) -> None:
    """Check that a float dtype, or "auto", is one.

    Raises:
        SpikeconvError: it is not.
    """
    if name not in ("auto", *DTYPES):
        hint = did_you_mean(name, DTYPES)
        raise SpikeconvError(f"Unknown dtype {name!r}.{hint} Choose auto, {', '.join(DTYPES)}.")


def check_cache_dtype(name: str) -> None:
    """Check that a dtype is one in which the engine keeps float keys and values.

    Raises:
        SpikeconvError: it is not.
    """
    if name not in CACHE_DTYPES:
        hint = did_you_mean(name, CACHE_DTYPES)
        raise SpikeconvError(f"Unknown cache dtype {name!r}.{hint} Choose {' or '.join(CACHE_DTYPES)}.")


def check_engine(name: str) -> None:
    """Check that something of that name runs checkpoints.

    Raises:
        SpikeconvError: nothing does.
    """
    if name not in ENGINES:
        hint = did_you_mean(name, ENGINES)
        raise SpikeconvError(f"Unknown engine {name!r}.{hint} Choose {' or '.join(ENGINES)}.")


def check_execution(name: str) -> None:
    """Check that an execution, or "auto", is one.

    Raises:
        SpikeconvError: it is not.
    """
    if name not in ("auto", *EXECUTIONS):
        hint = did_you_mean(name, EXECUTIONS)
        raise SpikeconvError(f"Unknown execution {name!r}.{hint} Choose auto, {', '.join(EXECUTIONS)}.")


def check_temperature(value: float) -> None:
    """Check a temperature of sampling.

    Raises:
        SpikeconvError: it is neither 0 nor one that leaves probabilities.
    """
    if value and not 1e-3 <= value <= 1e3:
        raise SpikeconvError(f"--temperature is {value}; expected 0, or a number from 0.001 to 1000.")
