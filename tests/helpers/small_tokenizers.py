"""Small fast tokenizers, built as those of SigLIP's checkpoints are: Unigram (SigLIP 1) and Gemma's BPE (SigLIP 2)."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.helpers.tiny import make_sample

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = [make_sample(number).caption for number in range(64)] + ["a photo of a cat", "naïve café, déjà vu"]
UNIGRAM = {"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
GEMMA = {
    "tokenizer_class": "GemmaTokenizer", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
    "bos_token": "<bos>", "padding_side": "right", "model_input_names": ["input_ids"],
}  # fmt: skip


@lru_cache(maxsize=1)
def unigram() -> str:
    """SigLIP 1's kind: lower case, no punctuation, text and ``</s>``, which also pads (id 1)."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"""[!"\\#$%&'()*+,\-.:;=?@\[\]^_`{|}~]"""), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=180, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer.to_str()


@lru_cache(maxsize=2)
def gemma(template: str = "$A <eos>") -> str:
    """SigLIP 2's kind: case kept, bytes for what is unknown, pad 0, EOS 1, BOS 2 where ``template`` has it."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    words = [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Punctuation()]
    trained.pre_tokenizer = pre_tokenizers.Sequence(words)
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", *BYTES], show_progress=False
    )
    trained.train_from_iterator([*TEXTS, *(text.lower() for text in TEXTS)], trainer)
    layout = json.loads(trained.to_str())
    layout["added_tokens"] = layout["added_tokens"][:4]
    tokenizer = Tokenizer.from_str(json.dumps(layout))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [("<eos>", 1), ("<bos>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return tokenizer.to_str()


def write_tokenizer(folder: Path, tokenizer: str, **settings: object) -> None:
    """The tokenizer's two files, as a checkpoint has them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
