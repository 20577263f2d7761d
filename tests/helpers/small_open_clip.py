"""Small random models of open_clip's, of every kind of tower and tokenizer, written by open_clip itself."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import RobertaConfig

from tests.helpers.small_tokenizers import TEXTS, unigram, write_tokenizer

VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
BOTH_WAYS = TEXT | {"no_causal_mask": True, "pool_type": "last"}
DECODER = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
POOLER = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2}
SIGLIP = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
WORDPIECE = {
    "tokenizer_class": "PreTrainedTokenizerFast", "sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]",
    "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]",
}  # fmt: skip


def _timm(name: str, size: int, pool: str = "avg", proj: str | None = "linear") -> dict[str, Any]:
    return {"image_size": size, "timm_model_name": name, "timm_pool": pool, "timm_proj": proj}


MODELS: dict[str, dict[str, Any]] = {  # name: model_cfg
    "convnext": {"embed_dim": 24, "vision_cfg": _timm("test_convnext", 64), "text_cfg": TEXT, "custom_text": True},
    "batch_norm": {"embed_dim": 24, "vision_cfg": _timm("test_resnet", 64), "text_cfg": TEXT, "custom_text": True},
    "token": {"embed_dim": 24, "vision_cfg": _timm("test_vit", 160, "token", None), "text_cfg": TEXT,
              "custom_text": True},
    "siglip": {"embed_dim": 96, "vision_cfg": _timm("test_vit3", 160, "map", "none"), "custom_text": True,
               "text_cfg": BOTH_WAYS | {"vocab_size": 200, "hf_tokenizer_name": "x/y", "proj_bias": True,
                                        "tokenizer_kwargs": {"clean": "canonicalize"}},
               "init_logit_bias": -10, "nonscalar_logit_scale": True},
    "attentional": {"embed_dim": 24, "vision_cfg": VIT | POOLER, "custom_text": True,
                    "text_cfg": TEXT | {"tokenizer_kwargs": {"clean": "canonicalize"}}},
    "coca": {"embed_dim": 24, "vision_cfg": VIT | POOLER | {"output_tokens": True}, "custom_text": True,
             "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True}, "multimodal_cfg": DECODER},
    "clipa": {"embed_dim": 24, "vision_cfg": VIT | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
              "text_cfg": BOTH_WAYS | {"vocab_size": 300, "hf_tokenizer_name": "x/y",
                                       "tokenizer_kwargs": {"strip_sep_token": True}}},
    "clips": {"embed_dim": 24, "vision_cfg": VIT, "custom_text": True,
              "text_cfg": BOTH_WAYS | {"vocab_size": 300, "hf_tokenizer_name": "x/y", "tokenizer_mode": "clips"}},
    "resnet": {"embed_dim": 24, "text_cfg": TEXT, "quick_gelu": True,
               "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}},
    "bias": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT, "init_logit_bias": -10},
    "roberta": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": {
        "hf_model_name": "text", "hf_tokenizer_name": "x/y", "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler",
        "context_length": 24, "hf_model_pretrained": False}},
    "roberta_class_token": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": {
        "hf_model_name": "text", "hf_tokenizer_name": "x/y", "hf_proj_type": "mlp", "hf_pooler_type": "cls_pooler",
        "context_length": 24, "hf_model_pretrained": False}},
    "two_tokens": {"embed_dim": 24, "vision_cfg": _timm("deit_tiny_distilled_patch16_224", 224, "token"),
                   "text_cfg": TEXT, "custom_text": True},
}  # fmt: skip
WITHOUT_DENSE = ("two_tokens",)
PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2], "interpolation": "bilinear", "resize_mode": "squash"}


@lru_cache(maxsize=1)
def wordpiece() -> str:
    """BERT's kind: lower case, ``[CLS]`` text ``[SEP]``, pad 0."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer.to_str()


def write_model(folder: Path, name: str, seed: int = 0) -> Any:
    """Write the model ``name`` as open_clip reads it (``local-dir:FOLDER``); the model itself, in evaluation mode."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(MODELS[name])
    text = config["text_cfg"]
    if text.get("hf_tokenizer_name"):
        siglip = name == "siglip"
        write_tokenizer(folder, unigram() if siglip else wordpiece(), **(SIGLIP if siglip else WORDPIECE))
    if text.get("hf_model_name"):
        text["hf_model_name"] = str(folder / "text")
        RobertaConfig(
            vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=32, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ).save_pretrained(folder / "text")  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": PIXELS}))
    torch.manual_seed(seed)
    model: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2.0)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    save_config_for_hf(model, folder / "open_clip_config.json", config)
    return model.eval()
