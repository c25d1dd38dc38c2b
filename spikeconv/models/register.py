"""Makes the model classes of this room known to transformers; imported right after its registry of models.

That registry may be imported in the middle of that of the tokenizers, so nothing here may need a tokenizer.
"""

from importlib.util import find_spec

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from spikeconv.models.rwkv6 import Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Model
from spikeconv.models.spikegpt import SpikeGptConfig, SpikeGptForCausalLM, SpikeGptModel

AutoConfig.register("rwkv6", Rwkv6Config)
AutoModel.register(Rwkv6Config, Rwkv6Model)
AutoModelForCausalLM.register(Rwkv6Config, Rwkv6ForCausalLM)
AutoConfig.register("spikegpt", SpikeGptConfig)
AutoModel.register(SpikeGptConfig, SpikeGptModel)
AutoModelForCausalLM.register(SpikeGptConfig, SpikeGptForCausalLM)
if find_spec("rwkv7_hf"):
    from spikeconv.models.rwkv7 import register_rwkv7

    register_rwkv7()
