"""Small random SigLIPs, written by transformers as the hub's folders are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

from tests.helpers.small_tokenizers import GEMMA, UNIGRAM, gemma, unigram, write_tokenizer

KINDS = {"siglip": (unigram, UNIGRAM), "siglip2": (gemma, GEMMA)}


def write_siglip(
    folder: Path, kind: str = "siglip2", context: int = 64, image_size: int = 16, width: int = 16, **tokenizer: Any
) -> Path:
    """A folder with the model, its tokenizer and its image processor; every parameter is random."""
    make, settings = KINDS[kind]
    json_text = make()
    vocab = Tokenizer.from_str(json_text).get_vocab_size()
    common = {"hidden_size": width, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=common
        | {"vocab_size": vocab, "max_position_embeddings": context, "bos_token_id": None, "eos_token_id": None},
        vision_config=common | {"image_size": image_size, "patch_size": 8},
    )
    torch.manual_seed(0)
    model = SiglipModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(4.77)  # SigLIP's, above CLIP's bound
        model.logit_bias.fill_(-12.9)
    model.save_pretrained(folder)
    side = {"height": image_size, "width": image_size}
    images = SiglipImageProcessor(size=side, resample=2 if kind == "siglip2" else 3).to_dict()
    (folder / "preprocessor_config.json").write_text(json.dumps(images, default=str), encoding="utf-8")
    write_tokenizer(folder, json_text, **(settings | tokenizer))
    return folder
