"""Convert pretrained Hugging Face language models into spike-driven ones.

Importing this package teaches transformers the checkpoint format, so that
`AutoModelForCausalLM.from_pretrained(converted_dir)` works afterwards.
"""

from spikeconv._register import register_on_import
from spikeconv.api import convert, load, record_spikes, set_steps, verify
from spikeconv.errors import SpikeconvError

__version__ = "0.1.0"
__all__ = ["SpikeconvError", "__version__", "convert", "load", "record_spikes", "set_steps", "verify"]

register_on_import()
