"""Random weights in the shapes of a small published RWKV (768 wide, 12 layers, 50,277 tokens), for timings.

Usage: python scripts/bench/random_rwkv.py FOLDER [--version 4]

No registry carries published RWKV weights. The tokenizer is that of the byte-level models in tests/assets.
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import RwkvConfig, RwkvForCausalLM

from spikeconv.models.rwkv6 import Rwkv6Config, Rwkv6ForCausalLM

ASSETS = Path(__file__).parents[2] / "tests" / "assets"
SIZES = {"vocab_size": 50277, "hidden_size": 768, "num_hidden_layers": 12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--version", type=int, choices=[4, 6], default=4)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.version == 4:
        model = RwkvForCausalLM(RwkvConfig(**SIZES, rescale_every=0))
    else:
        model = Rwkv6ForCausalLM(Rwkv6Config(**SIZES))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embeddings" in name:
                parameter.normal_()
            elif name.endswith("weight") and parameter.dim() == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
            elif "_w1" in name or "_w2" in name or "time_faaaa" in name:
                parameter.normal_(0, 0.05)
    model.save_pretrained(options.folder)
    for file in (ASSETS / "rwkv4-brown").glob("tokenizer*"):
        shutil.copy(file, options.folder)


if __name__ == "__main__":
    main()
