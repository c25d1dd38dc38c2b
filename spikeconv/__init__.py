"""Convert pretrained Hugging Face language models into spike-driven ones.

Importing this package teaches transformers the checkpoint format, so that
`AutoModelForCausalLM.from_pretrained(converted_dir)` works afterwards.
"""

from spikeconv._register import register_on_import

__version__ = "0.1.0"
__all__ = ["__version__"]

register_on_import()
