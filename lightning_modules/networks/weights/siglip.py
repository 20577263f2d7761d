"""transformers' ``SiglipModel`` as a folder: settings, weights, tokenizer and image processor, in and out.

Texts are in lower case for both generations. SigLIP 1's tokenizer also strips punctuation (``canonicalize_text`` of
transformers' ``SiglipTokenizer``; its released ``tokenizer.json`` does both), which is added here where a
``tokenizer.json`` of that class does not do it. SigLIP 2's is Gemma's, which keeps case, while the model was trained on
lower case (its documentation, and transformers' ``Siglip2Tokenizer``): lower-casing goes in front of it. Exported
folders have it inside ``tokenizer.json``, so transformers' processor gives the same ids as ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, normalizers
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipProcessor,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from datamodules.batching.image_transforms import Channels
from datamodules.batching.library_tokenizer import packed, parse, unpacked, with_normalizers
from lightning_modules.networks.siglip_settings import SiglipSettings
from lightning_modules.networks.siglip_towers import text_config, vision_config
from lightning_modules.networks.weights.checkpoint import mean_and_std, read_json, read_pixel_format
from lightning_modules.networks.weights.export import save_weights
from lightning_modules.networks.weights.files import read_tensors
from lightning_modules.networks.weights.hub import OPEN_CLIP
from lightning_modules.networks.weights.parameter_map import State

SIGLIP, NAFLEX = "siglip", "siglip2"  # model types
PREFIXES = {"image_tower.transformer.": "vision_model.", "text_tower.transformer.": "text_model."}
NUMBERS = {"temperature.log_scale": "logit_scale", "bias.logit_bias": "logit_bias"}
IDS = "embeddings.position_ids"  # in files of older versions; no weights
HALF: Channels = (0.5, 0.5, 0.5)
PUNCTUATION = Regex(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]""")  # Python's string.punctuation
TOKENS = ("pad_token", "eos_token", "bos_token", "unk_token")


class Tokenization(NamedTuple):
    """A checkpoint's tokenizer: its JSON, its special tokens by name, and how it pads."""

    json: str
    special_tokens: dict[str, str]
    pad_id: int
    pad_side: str


def is_siglip(weights: Path) -> bool:
    """True for weights beside a ``config.json`` of SigLIP, or of SigLIP 2 NaFlex, which is then refused by name."""
    config = weights.with_name("config.json")
    if weights.name in OPEN_CLIP or not config.is_file():
        return False
    return read_json(config).get("model_type") in (SIGLIP, NAFLEX)


def read_siglip(weights: Path) -> tuple[SiglipSettings, State]:
    """Settings, and the weights under our names, of a file with the other files beside it.

    Raises:
        ValueError: naming the file, and what is missing, unknown or of another kind in it.
    """
    file = weights.with_name("config.json")
    fields = read_json(file)
    if fields["model_type"] == NAFLEX:
        raise ValueError(f"{file}: SigLIP 2 NaFlex (model_type siglip2) is not supported, only fixed resolutions")
    architectures = fields.get("architectures") or ["SiglipModel"]
    if "SiglipModel" not in architectures:
        raise ValueError(f"{file}: architectures must name SiglipModel, got {', '.join(architectures)}")
    vision = SiglipVisionConfig.from_dict(fields.get("vision_config") or {})
    text = SiglipTextConfig.from_dict(fields.get("text_config") or {})
    image_size, patch_size = _check_towers(vision, text, str(file))
    tokenization = read_tokenization(weights.parent, text.vocab_size)
    pixels = read_pixel_format(weights.parent)
    mean, std = mean_and_std(pixels, weights.parent, HALF, HALF)
    settings = SiglipSettings(
        image_size=image_size,
        patch_size=patch_size,
        image_width=vision.hidden_size,
        image_hidden=vision.intermediate_size,
        image_layers=vision.num_hidden_layers,
        image_heads=vision.num_attention_heads,
        text_width=text.hidden_size,
        text_hidden=text.intermediate_size,
        text_layers=text.num_hidden_layers,
        text_heads=text.num_attention_heads,
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        frozen_positions=0,
        activation=vision.hidden_act,
        layer_norm_eps=vision.layer_norm_eps,
        pad_id=tokenization.pad_id,
        pad_side="left" if tokenization.pad_side == "left" else "right",
        tokenizer=packed(tokenization.json),
        special_tokens=tokenization.special_tokens,
        image_mean=mean,
        image_std=std,
        resample=pixels.get("resample", 3),
    )
    return settings, renamed(read_tensors(weights))


def _check_towers(vision: SiglipVisionConfig, text: SiglipTextConfig, source: str) -> tuple[int, int]:
    """Sides of the image and of a patch. Raises ValueError where a tower is of a kind that is not built here."""
    image, patch = vision.image_size, vision.patch_size
    if not isinstance(image, int) or not isinstance(patch, int):
        raise ValueError(f"{source}: image_size and patch_size must be numbers, for squares, got {image} and {patch}")
    for name in ("hidden_act", "layer_norm_eps"):
        if getattr(vision, name) != getattr(text, name):
            raise ValueError(f"{source}: {name} must agree, got {getattr(vision, name)} and {getattr(text, name)}")
    if not getattr(vision, "vision_use_head", True):  # versions of transformers whose config has no such field build it
        raise ValueError(f"{source}: vision_config.vision_use_head must be true, got false: images have no embedding")
    if text.projection_size != vision.hidden_size:
        raise ValueError(
            f"{source}: text_config.projection_size must be the image tower's width, {vision.hidden_size}, "
            f"got {text.projection_size}"
        )
    return image, patch


def read_tokenization(folder: Path, vocab_size: int) -> Tokenization:
    """The tokenizer of a SigLIP's folder, with SigLIP's cleaning of texts before it.

    Raises:
        ValueError: where ``tokenizer.json`` is missing or none, or does not fit the model.
    """
    file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    for needed in (file, config):
        if not needed.is_file():
            raise ValueError(f"{needed} is missing: a SigLIP needs its tokenizer's files, tokenizer.json among them")
    settings = read_json(config)
    try:
        backend = parse(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} holds {error}") from error
    tokens = {name: _content(settings[name]) for name in TOKENS if settings.get(name) is not None}
    pad = tokens.get("pad_token", "")
    pad_id = backend.token_to_id(pad)
    if pad_id is None:
        raise ValueError(f"{config}: pad_token must be a token of {file.name}, got {pad!r}")
    if backend.get_vocab_size() > vocab_size:
        raise ValueError(
            f"{file} has {backend.get_vocab_size()} tokens, the model's text_config.vocab_size {vocab_size}"
        )
    strips = settings.get("tokenizer_class", "").removesuffix("Fast") == "SiglipTokenizer"
    return Tokenization(cleaned(backend.to_str(), strips), tokens, pad_id, settings.get("padding_side", "right"))


def _content(token: str | Mapping[str, Any]) -> str:
    """A special token of ``tokenizer_config.json``, which is a text or a record."""
    return token if isinstance(token, str) else token["content"]


def cleaned(tokenizer: str, strips: bool) -> str:
    """A ``tokenizer.json`` that lower-cases, and strips punctuation where it ``strips``; as it is where it does so."""
    own = parse(tokenizer).normalizer
    probe = "A!" if own is None else own.normalize_str("A!")
    if strips and "!" in probe:
        spaces = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        return with_normalizers(tokenizer, normalizers.Lowercase(), normalizers.Replace(PUNCTUATION, ""), *spaces)
    return with_normalizers(tokenizer, normalizers.Lowercase()) if "A" in probe else tokenizer


def renamed(state: Mapping[str, Tensor]) -> State:
    """transformers' state dict under our names; unknown names stay, to be named as such."""
    ours = {theirs: prefix for prefix, theirs in (*PREFIXES.items(), *NUMBERS.items())}
    result: State = {}
    for name, tensor in state.items():
        if name.endswith(IDS):
            continue
        start = next((theirs for theirs in ours if name.startswith(theirs)), "")
        result[ours.get(start, "") + name.removeprefix(start)] = tensor.reshape(1) if name in ours else tensor
    return result


def save_siglip(settings: SiglipSettings, state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write what ``transformers.SiglipModel`` and ``SiglipProcessor`` load with ``from_pretrained``."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    names = PREFIXES | NUMBERS
    theirs: State = {}
    for name, tensor in state.items():
        start = next(ours for ours in names if name.startswith(ours))
        theirs[names[start] + name.removeprefix(start)] = tensor.contiguous()
    save_weights(theirs, path / "model.safetensors")
    config = SiglipConfig(
        text_config=text_config(settings).to_dict(),
        vision_config=vision_config(settings).to_dict(),
        architectures=["SiglipModel"],
    )
    config.save_pretrained(path)
    processor(settings).save_pretrained(path)


def processor(settings: SiglipSettings) -> SiglipProcessor:
    """transformers' preparation of images and texts for a SigLIP of these settings."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=parse(unpacked(settings.tokenizer)),
        model_max_length=settings.context_length,
        padding_side=settings.pad_side,
        model_input_names=["input_ids"],  # padding is read, so there is no mask
        **settings.special_tokens,
    )
    side = settings.image_size
    images = SiglipImageProcessor(
        size={"height": side, "width": side},
        image_mean=list(settings.image_mean),
        image_std=list(settings.image_std),
        resample=settings.resample,
    )
    return SiglipProcessor(images, tokenizer)
