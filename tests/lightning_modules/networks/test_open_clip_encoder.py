"""Models of open_clip's that are no plain CLIP: the same embeddings as the library's, in and out again."""

from __future__ import annotations

import json
import logging

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch.nn import functional

from datamodules.batch import RaggedTexts
from datamodules.batching.collate import pack_texts
from lightning_modules.networks import DualEncoder, OpenClipConfig, OpenClipEncoder, build_encoder, load_encoder
from lightning_modules.networks.contract import config_of, plain_config
from lightning_modules.networks.normalize import unit
from lightning_modules.networks.open_clip_tokenizer import TextRows
from lightning_modules.networks.weights.open_clip_config import is_plain_clip
from lightning_modules.networks.weights.open_clip_names import linked
from tests.helpers.small_open_clip import MODELS, PIXELS, TEXT, VIT, WITHOUT_DENSE, write_model
from tests.helpers.tiny_run import TINY

TEXTS = [
    "", "a", "A photo of TWO cats.", "naïve café, déjà vu", "cafe\u0301 \u200b🐈 &amp;amp; ¿?", "!!!", "a_b\n\tc",
    *(" ".join(["boat"] * n) for n in (5, 20, 21, 22, 23, 24, 25, 60)),
]  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder, library's model and our encoder by name, each made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder, write_model(folder, name), load_encoder(folder).eval()
        return made[name]

    return get


def pixels_of(encoder, count=2):
    side = encoder.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def agree(model, tokenize, encoder):
    """Both embed images and texts alike."""
    pixels, (texts, index) = pixels_of(encoder), pack_texts(TEXTS, encoder.tokenizer)
    with torch.no_grad():
        image, text = model.encode_image(pixels, normalize=True), model.encode_text(tokenize(TEXTS), normalize=True)
        images, ours = encoder.encode_image(pixels), encoder.encode_text(texts)
    torch.testing.assert_close(images.image, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.text[index], text, rtol=0, atol=1e-5)
    assert images.dense.shape == (2, encoder.embed_dim, *encoder.grid)
    assert ours.tokens.shape == (len(texts.tokens), encoder.embed_dim)


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_the_librarys(written, name):
    folder, model, encoder = written(name)
    assert isinstance(encoder, OpenClipEncoder)
    agree(model, open_clip.get_tokenizer(f"local-dir:{folder}"), encoder)
    assert encoder.has_dense == (name not in WITHOUT_DENSE)
    assert (encoder.image_mean, encoder.image_std) == (tuple(PIXELS["mean"]), tuple(PIXELS["std"]))
    assert encoder.input_format.interpolation == encoder.resizing[1] == PIXELS["interpolation"] == "bilinear"
    assert encoder.context_length == 24
    torch.testing.assert_close(encoder.logit_scale, model.logit_scale.exp().reshape(1))
    assert (encoder.logit_bias is None) == (model.logit_bias is None)
    assert encoder.image_blocks()
    assert encoder.text_blocks()


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_is_the_same_to_open_clip(written, name, tmp_path):
    folder, _, encoder = written(name)
    encoder.save(tmp_path, "open_clip")
    again = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}", return_transform=False)
    agree(again.eval(), open_clip.get_tokenizer(f"local-dir:{tmp_path}"), encoder)
    if name != "coca":  # its decoder is left out
        saved, first = (load_file(place / "open_clip_model.safetensors") for place in (tmp_path, folder))
        assert {n: t.shape for n, t in saved.items()} == {n: t.shape for n, t in first.items()}
        assert json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"] == encoder.config.model_cfg
    assert {k: v for k, v in again.visual.preprocess_cfg.items() if k in PIXELS} == {
        k: v if isinstance(v, str) else pytest.approx(v) for k, v in PIXELS.items()
    }


@pytest.mark.parametrize("name", ["siglip", "roberta"])
def test_settings_hold_all_that_the_model_is_made_of(written, name):
    """A checkpoint has the settings and the weights, and no file of the first model is needed any more."""
    _, _, encoder = written(name)
    plain = json.loads(json.dumps(plain_config(encoder.config)))
    again = build_encoder(config_of(plain))
    again.load_state_dict(encoder.state_dict())
    texts, _ = pack_texts(TEXTS, again.tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(again.eval().encode_text(texts), encoder.encode_text(texts))


def test_half_precision_is_written(written, tmp_path):
    _, _, encoder = written("batch_norm")
    encoder.save_pretrained(tmp_path, torch.float16)
    state = load_file(tmp_path / "open_clip_model.safetensors")
    assert {t.dtype for name, t in state.items() if "num_batches" not in name} == {torch.float16}
    image = load_encoder(tmp_path).eval().encode_image(pixels_of(encoder)).image
    torch.testing.assert_close(image, encoder.encode_image(pixels_of(encoder)).image, rtol=0, atol=1e-2)


@pytest.mark.parametrize("changes", [
    {}, {"quick_gelu": True}, {"custom_text": False}, {"init_logit_bias": None},
    {"vision_cfg": VIT | {"mlp_ratio": 4.0, "pool_type": "tok", "patch_dropout": 0.0}},
    {"text_cfg": TEXT | {"pool_type": "argmax", "hf_tokenizer_name": "", "tokenizer_kwargs": {}}},
])  # fmt: skip
def test_a_plain_clip_is_told(changes):
    assert is_plain_clip({"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT} | changes, {})


@pytest.mark.parametrize("changes", [
    {"custom_text": True}, {"init_logit_bias": -10}, {"nonscalar_logit_scale": True},
    {"vision_cfg": VIT | {"pool_type": "avg"}}, {"vision_cfg": VIT | {"image_size": 36}},
    {"vision_cfg": VIT | {"image_size": [32, 32]}}, {"vision_cfg": VIT | {"layers": [1, 1, 1, 1]}},
    {"vision_cfg": VIT | {"timm_model_name": "test_vit"}}, {"vision_cfg": VIT | {"mlp_ratio": 2.0}},
    {"text_cfg": TEXT | {"hf_tokenizer_name": "x/y"}}, {"text_cfg": TEXT | {"no_causal_mask": True}},
    {"text_cfg": TEXT | {"pool_type": "eos"}}, {"text_cfg": TEXT | {"tokenizer_kwargs": {"clean": "whitespace"}}},
])  # fmt: skip
def test_whatever_differs_is_no_plain_clip(changes):
    assert not is_plain_clip({"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT} | changes, {})


@pytest.mark.parametrize("pixels", [{"mean": [0.5, 0.5, 0.5]}, {"interpolation": "bilinear"}])
def test_other_pixels_are_no_plain_clip(pixels):
    assert not is_plain_clip({"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT}, pixels)


def test_an_interpolation_drawn_at_random_is_bicubic(written):
    _, _, encoder = written("clipa")
    drawn = OpenClipConfig(
        encoder.config.model_cfg, PIXELS | {"interpolation": "random"}, encoder.config.tokenizer_files
    )
    assert build_encoder(drawn).input_format.interpolation == "bicubic"


def test_our_own_exports_stay_clips(tmp_path):
    DualEncoder(TINY).save_open_clip(tmp_path)
    assert isinstance(load_encoder(tmp_path), DualEncoder)


def test_every_kind_of_place_lies_where_embeddings_lie(written):
    """Each feature is what the tower's head makes of one place, computed here in another way."""
    features = {}
    for name in ("batch_norm", "siglip", "attentional", "clipa", "resnet"):
        _, model, encoder = written(name)
        pixels = pixels_of(encoder)
        with torch.no_grad():
            images = encoder.encode_image(pixels)
            features[name] = images, images.tokens, model, pixels
    images, tokens, *_ = features["batch_norm"]  # a mean and a linear head
    torch.testing.assert_close(unit(tokens.mean(1)), images.image)
    _, tokens, model, pixels = features["siglip"]
    with torch.no_grad():
        patches = model.visual.trunk.forward_features(pixels)[:, model.visual.trunk.num_prefix_tokens :]
        alone = torch.stack([model.visual.trunk.attn_pool(patches[:, n : n + 1]) for n in range(patches.shape[1])], 1)
        torch.testing.assert_close(tokens, alone, rtol=1e-4, atol=1e-5)
        _, tokens, model, pixels = features["attentional"]
        patches = model.visual.forward_intermediates(pixels, 1, output_fmt="NLC")["image_intermediates"][0]
        alone = torch.stack([model.visual.attn_pool(patches[:, n : n + 1])[:, 0] for n in range(16)], 1)
        torch.testing.assert_close(tokens, model.visual.ln_post(alone) @ model.visual.proj, rtol=1e-4, atol=1e-5)
        _, tokens, model, pixels = features["clipa"]
        patches = model.visual.forward_intermediates(pixels, 1, output_fmt="NLC")["image_intermediates"][0]
        torch.testing.assert_close(tokens, model.visual.ln_post(patches) @ model.visual.proj)
        images, tokens, model, pixels = features["resnet"]
        model.visual.attnpool.q_proj.weight.zero_()  # then it attends to its mean token and all places alike
        model.visual.attnpool.q_proj.bias.zero_()
        places = model.visual.forward_intermediates(pixels, 1)["image_intermediates"][0].flatten(2).mT
        pool = model.visual.attnpool
        mean = pool.c_proj(pool.v_proj(places.mean(1) + pool.positional_embedding[0]))
        expected = (tokens.sum(1) + mean) / (tokens.shape[1] + 1)
        torch.testing.assert_close(model.visual(pixels), expected, rtol=1e-4, atol=1e-5)


def test_dense_features_stand_row_by_row(written):
    """The features of the upper left patch change with it, and no other place's do as much."""
    for name in ("convnext", "token", "attentional", "resnet"):
        _, _, encoder = written(name)
        pixels = pixels_of(encoder, 1)
        rows, columns = encoder.grid
        side, moved = encoder.image_size // columns, pixels.clone()
        moved[:, :, :side, -side:] += 2.0  # upper right
        with torch.no_grad():
            change = (encoder.encode_image(moved).dense - encoder.encode_image(pixels).dense).norm(dim=1)[0]
        assert divmod(int(change.argmax()), columns) == (0, columns - 1), name
        assert rows == columns


def test_tokens_lie_where_texts_lie(written):
    """With a causal text tower EOT's feature is the embedding; with a mean and a linear head their mean is."""
    for name, text_of in (
        ("convnext", lambda tokens: tokens[-1]),
        ("clipa", None),
        ("roberta", lambda tokens: tokens.mean(0)),
        ("coca", None),
    ):
        _, _, encoder = written(name)
        texts, _ = pack_texts(TEXTS[1:], encoder.tokenizer)
        with torch.no_grad():
            features = encoder.encode_text(texts)
        assert features.tokens.isfinite().all()
        if text_of is not None:
            for n, text in enumerate(features.text):
                first, last = texts.offsets[n : n + 2]
                torch.testing.assert_close(unit(text_of(features.tokens[first:last])), text, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["convnext", "attentional", "siglip", "clipa"])
def test_a_phrase_is_found_among_the_tokens(written, name):
    tokenizer = written(name)[2].tokenizer
    caption = "A red boat and two cats"
    for phrase in ("red boat", "two cats", "A red"):
        start = caption.index(phrase)
        first, last = tokenizer.span(caption, start, start + len(phrase))
        assert tokenizer.decode(tokenizer(caption)[first:last]).lower() == phrase.lower()
    assert tokenizer.span(caption, 3, 7) is None  # "ed b"
    far = "boat " * 30 + "red boat"
    assert tokenizer.span(far, far.index("red"), len(far)) is None  # cut off by the context
    assert tokenizer.length(far) == len(tokenizer.whole(far)) > len(tokenizer(far)) == 24


def test_rows_are_filled_on_either_side():
    texts = RaggedTexts(torch.tensor([5, 6, 7, 8]), torch.tensor([0, 3, 4]), torch.arange(2))
    rows, places = TextRows(5, pad=1, dropped=7)(texts)
    assert rows.tolist() == [[5, 6, 0, 1, 1], [8, 1, 1, 1, 1]]
    assert places.tolist() == [0, 1, 2, 5]
    rows, places = TextRows(5, pad=0, pad_left=True)(texts)
    assert rows.tolist() == [[0, 0, 5, 6, 7], [0, 0, 0, 0, 8]]
    assert rows.flatten()[places].tolist() == [5, 6, 7, 8]
    assert TextRows(5, last=9)(texts)[0].tolist() == [[5, 6, 7, 0, 9], [8, 0, 0, 0, 9]]
    for length, last, longest in ((2, None, 2), (3, 9, 2)):
        with pytest.raises(ValueError, match=f"at most {longest} tokens each, got one of 3"):
            TextRows(length, last=last)(texts)


def test_batch_norms_keep_their_statistics(written):
    _, _, encoder = written("batch_norm")
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    pixels = pixels_of(encoder, 4)
    wanted = encoder.encode_image(pixels).image
    trained = encoder.train().encode_image(pixels).image
    torch.testing.assert_close(trained, wanted)
    trained.sum().backward()
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) > 3
    assert all(norm.weight.grad is not None for norm in norms)
    assert all(torch.equal(before[name], buffer) for name, buffer in encoder.named_buffers())
    encoder.eval().zero_grad()


@pytest.mark.parametrize("name", ["siglip", "attentional", "roberta", "convnext"])
def test_recomputed_blocks_change_nothing(written, name):
    _, _, encoder = written(name)
    texts, _ = pack_texts(TEXTS, encoder.tokenizer)
    gradients = []
    for recompute in (False, True, False):
        encoder.set_grad_checkpointing(recompute)
        encoder.zero_grad()
        encoder.train()
        images, ours = encoder(pixels_of(encoder), texts)
        (images.image[:, 0].sum() + images.dense[:, 0].sum() + ours.text[:, 0].sum() + ours.tokens.mean()).backward()
        gradients.append({n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None})
    encoder.eval().zero_grad()
    assert gradients[0]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_context_of_its_own(written, caplog):
    folder, _, _ = written("convnext")
    with caplog.at_level(logging.INFO, "grainclip"):
        assert load_encoder(folder, 24).context_length == 24
        assert not caplog.records
        assert load_encoder(folder, 248).context_length == 24  # encoder.context_length where nothing is said
    assert "reads texts of 24 tokens, its own" in caplog.text
    with pytest.raises(
        ValueError, match=r"encoder.context_length must be 24, that of .*, which is not stretched; got 77"
    ):
        load_encoder(folder, 77)


def rewritten(folder, place, name="bias", **changes):
    """The model of a folder with another config, in ``place``."""
    write_model(place, name)
    file = place / "open_clip_config.json"
    config = json.loads(file.read_text())
    for section, values in changes.items():
        config["model_cfg"][section] = config["model_cfg"].get(section, {}) | values
    file.write_text(json.dumps(config))
    return place


@pytest.mark.parametrize(("changes", "says"), [
    ({"vision_cfg": {"wings": 2}}, "does not build the model: .*wings"),
    ({"vision_cfg": {"timm_model_name": "test_vitt"}}, "does not build the model"),
    ({"vision_cfg": {"image_size": [32, 64]}}, "image_size must be that of a square, got .32, 64."),
    ({"text_cfg": {"pool_type": "none"}}, "text_cfg must make one vector of 24 numbers, got .24, 24."),
    ({"text_cfg": {"tokenizer_kwargs": {"reduction_mask": "simple"}}}, "reduction_mask draws a long text's tokens"),
    ({"text_cfg": {"hf_tokenizer_name": "no/where"}}, "holds no tokenizer, and so does .*no/where: HF_HUB_OFFLINE"),
    ({"text_cfg": {"hf_model_name": "no/where"}}, "hf_model_name has no config.json that reads: no/where: HF_HUB"),
    ({"vision_cfg": {"layers": 3}}, "lacks 12 parameters: visual.transformer.resblocks.2"),
    ({"vision_cfg": {"layers": 1}}, "has unknown 12 parameters: visual.transformer.resblocks.1"),
    ({"vision_cfg": {"width": 48, "head_width": 24}}, "does not fit its open_clip_config.json"),
])  # fmt: skip
def test_what_does_not_fit_is_told_in_one_line(tmp_path, changes, says, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = rewritten(tmp_path, tmp_path / "model", **changes)
    with pytest.raises(ValueError, match=says) as error:
        load_encoder(place)
    assert "\n" not in str(error.value)


def test_a_tower_without_pooling_is_refused():
    vision = {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": ""}
    config = OpenClipConfig({"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}, {})
    with pytest.raises(ValueError, match=r"vision_cfg must make one vector of 24 numbers, got \[24, 2, 2\]"):
        build_encoder(config)


def test_damaged_files_are_named(tmp_path):
    write_model(tmp_path, "bias")
    weights, config = tmp_path / "open_clip_model.safetensors", tmp_path / "open_clip_config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"open_clip_model.safetensors does not fit its open_clip_config.json"):
        load_encoder(tmp_path)
    weights.write_bytes(whole)
    save_file({**load_file(weights), "visual.extra": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=r"has unknown 1 parameters: visual.extra"):
        load_encoder(tmp_path)
    for content, says in (
        ("{", "truncated or no JSON"),
        ("[]", "must hold a model_cfg"),
        ("{}", "must hold a model_cfg"),
    ):
        config.write_text(content)
        with pytest.raises(ValueError, match=says):
            load_encoder(tmp_path)
    config.write_text(json.dumps({"model_cfg": MODELS["bias"], "preprocess_cfg": {"mean": [0.5]}}))
    with pytest.raises(ValueError, match=r"preprocess_cfg.mean must be three numbers"):
        load_encoder(tmp_path)


def test_names_of_open_clip(monkeypatch):
    for source, says in (
        ("open_clip:ViT-B-16-SigLP/webli", "knows no model ViT-B-16-SigLP; did you mean ViT-B-16-SigLIP?"),
        ("open_clip:zzz/webli", "knows no model zzz; it knows "),
        (
            "open_clip:ViT-B-16-SigLIP/webly",
            "must name weights of ViT-B-16-SigLIP behind a /: webli; did you mean webli?",
        ),
        ("open_clip:ViT-B-16-SigLIP", "must name weights of ViT-B-16-SigLIP behind a /: webli"),
    ):
        with pytest.raises(ValueError, match=says.replace("?", "[?]")):
            load_encoder(source)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda settings: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(FileNotFoundError, match=r"the weights cannot be downloaded .no network"):
        load_encoder("open_clip:ViT-B-16-SigLIP/webli")


def test_a_name_s_weights_are_linked_to_with_their_settings(written, tmp_path, monkeypatch):
    folder, _, _ = written("bias")
    weights, model_cfg = folder / "open_clip_model.safetensors", MODELS["bias"]
    settings = {"hf_hub": "x/y", "quick_gelu": True, "mean": (0.5, 0.5, 0.5), "interpolation": "bicubic"}
    for _ in range(2):  # a second run, or rank, finds the link there
        link = linked(tmp_path / "cache", weights, model_cfg, settings)
    assert link.resolve() == weights
    encoder = load_encoder(tmp_path / "cache")
    assert encoder.image_mean == (0.5, 0.5, 0.5)
    assert encoder.config.model_cfg["quick_gelu"] is True  # the weights were trained with it
    assert not [file for file in (tmp_path / "cache").iterdir() if file.name.startswith(".")]


def test_wrong_pixels_are_refused(written):
    with pytest.raises(ValueError, match=r"pixels must have shape \[B, 3, 32, 32\], got \[1, 3, 16, 16\]"):
        written("bias")[2].encode_image(torch.zeros(1, 3, 16, 16))
    assert functional.cosine_similarity(*written("bias")[2].encode_image(torch.randn(2, 3, 32, 32)).image, dim=0) < 1
