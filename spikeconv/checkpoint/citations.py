"""BibTeX of what a conversion uses; entries without an identifier have none that we know."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["citations"]

ENTRIES = {
    "sdllm": """@misc{sdllm,
  title = {Spike-driven Large Language Model},
  note = {SDLLM: counts of ternary spikes, $\\gamma$-SQP},
}""",
    "quarot": """@misc{quarot,
  title = {QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs},
  author = {Ashkboos, Saleh and Mohtashami, Amirkeivan and Croci, Maximilian L. and Li, Bo and Cameron, Pashmina and
            Jaggi, Martin and Alistarh, Dan and Hoefler, Torsten and Hensman, James},
  year = {2024},
  eprint = {2404.00456},
  archivePrefix = {arXiv},
}""",
    "spikerwkv": """@misc{spikerwkv,
  title = {SpikeRWKV: Energy-efficient Large Language Model with Spiking Neural Network},
  author = {Zhang, Yulu and Shen, Qianzi and Wang, Zijian},
}""",
    "spikegpt": """@article{spikegpt,
  title = {SpikeGPT: Generative Pre-trained Language Model with Spiking Neural Networks},
  author = {Zhu, Rui-Jie and Zhao, Qihang and Li, Guoqi and Eshraghian, Jason K.},
  journal = {Transactions on Machine Learning Research},
  year = {2024},
  url = {https://openreview.net/forum?id=gcf1anBL9e},
}""",
    "spikelm": """@inproceedings{spikelm,
  title = {SpikeLM: Towards General Spike-Driven Language Modeling via Elastic Bi-Spiking Mechanisms},
  author = {Xing, Xingrun and Zhang, Zheng and Ni, Ziyi and Xiao, Shitao and Ju, Yiming and Fan, Siqi and Wang, Yequan
            and Zhang, Jiajun and Li, Guoqi},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
}""",
    "spikellm": """@misc{spikellm,
  title = {SpikeLLM: Scaling up Spiking Neural Network to Large Language Models via Saliency-based Spiking},
  author = {Xing, Xingrun and others},
  year = {2024},
  eprint = {2407.04752},
  archivePrefix = {arXiv},
}""",
    "gptq": """@misc{gptq,
  title = {GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers},
  author = {Frantar, Elias and Ashkboos, Saleh and Hoefler, Torsten and Alistarh, Dan},
  year = {2022},
  eprint = {2210.17323},
  archivePrefix = {arXiv},
}""",
    "gptaq": """@misc{gptaq,
  title = {GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration},
  author = {Li, Yuhang and others},
  year = {2025},
  eprint = {2504.02692},
  archivePrefix = {arXiv},
}""",
    "qronos": """@misc{qronos,
  title = {Qronos: Correcting the Past by Shaping the Future... in Post-Training Quantization},
  author = {Zhang, Shihao and others},
  year = {2025},
  eprint = {2505.11695},
  archivePrefix = {arXiv},
}""",
    "smoothquant": """@misc{smoothquant,
  title = {SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models},
  author = {Xiao, Guangxuan and Lin, Ji and Seznec, Mickael and Wu, Hao and Demouth, Julien and Han, Song},
  year = {2022},
  eprint = {2211.10438},
  archivePrefix = {arXiv},
}""",
}

CODECS = {
    "count": "sdllm",
    "multihead": "spikerwkv",
    "repetition": "spikerwkv",
    "gif": "spikellm",
    "elastic": "spikelm",
}


def citations(settings: Mapping[str, Any], family: str) -> list[str]:
    """BibTeX entries of the methods in a conversion.

    Args:
        settings: as in a record's `config`.
        family: the model's `model_type`.
    """
    return [ENTRIES[name] for name in dict.fromkeys(_used(settings, family)) if name in ENTRIES]


def _used(settings: Mapping[str, Any], family: str) -> Iterator[str]:
    yield CODECS.get(settings["inputs"]["codec"], "")
    if settings["rotation"]["kind"] != "none":
        yield from ("sdllm", "quarot") if settings["rotation"]["kind"] == "gamma-sqp" else ("quarot",)
    yield settings["weights"]["method"]
    yield settings["balance"]
    yield family
