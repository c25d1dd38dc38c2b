"""Whatever of transformers is imported first, our classes are known to the one registry that everybody sees."""

import subprocess
import sys

FIRSTS = (
    "from transformers import AutoTokenizer",
    "from transformers import AutoModelForCausalLM",
    "from transformers import AutoConfig",
    "import transformers.modeling_utils",
    "from spikeconv.models.tokenizers import byte_tokenizer",
    "import spikeconv.models.spikegpt",
)
SCRIPT = """
import spikeconv
{first}
import transformers
from transformers.models.auto import configuration_auto, modeling_auto, tokenization_auto
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
config = transformers.AutoConfig.for_model("rwkv6")
assert transformers.AutoModelForCausalLM is AutoModelForCausalLM, "two copies of the registry"
assert AutoModelForCausalLM._model_mapping[type(config)].__name__ == "Rwkv6ForCausalLM"
assert "RwkvWorldTokenizer" in tokenization_auto.REGISTERED_TOKENIZER_CLASSES
"""


def test_one_registry_whatever_is_imported_first() -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = {
        first: subprocess.Popen([sys.executable, "-c", SCRIPT.format(first=first)], text=True, **pipes)
        for first in FIRSTS
    }
    for first, process in started.items():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, f"{first}: {errors}"
