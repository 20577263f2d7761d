"""Stored token ids give the very batches that the tokenizer gives, and are refused where they are damaged."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import DataError, GranularityData
from datamodules.batching.collate import SamplePreprocessor, collate
from datamodules.batching.image_transforms import Squash
from datamodules.batching.input_format import InputFormat
from datamodules.batching.library_tokenizer import LibraryTokenizer
from datamodules.batching.stored_tokens import read_tokens, with_tokens
from datamodules.batching.text_sampling import GrainSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.sample import Phrase, Sample, SampleError
from tests.helpers.small_tokenizers import gemma
from tests.helpers.tiny import make_sample, write_tar


def odd(number: int) -> Sample:
    """A sample whose texts need mending, and whose sentences end within words for a tokenizer."""
    first, second = f"A caf\u00e9 &amp; {number} bars", "it's 3.5 m   wide"
    caption = f"{first}. {second}. {first}"
    phrases = (Phrase("caf\u00e9", 0, 2, 6), Phrase("3.5 m", 1, caption.index("3.5"), caption.index("3.5") + 5))
    texts = {"caption": caption, "sentences": (first + ".", second + "."), "summary": first}
    return make_sample(number, phrases=phrases, stop_phrases=(Phrase("A", 0, 0, 1),), **texts)


@pytest.mark.parametrize("caption", ["whole", "sampled"])
@pytest.mark.parametrize(("context", "stop_phrases"), [(8, 0), (77, 0), (77, 1)])
def test_batches_are_the_same(caption, context, stop_phrases):
    sampling = GrainSampling(2, 3, 1, caption, stop_phrases=stop_phrases)
    prepare = SamplePreprocessor(16, Squash(), sampling, Tokenizer(context), random_texts=True)
    samples = [make_sample(n) for n in range(4)] + [odd(n) for n in range(4)] + [make_sample(9, phrases=(), regions=())]
    kept = [Sample.from_members(with_tokens(s).members()) for s in samples]
    assert all(s.tokens for s in kept)
    for seed in range(5):
        ours, theirs = (collate([prepare(s, random.Random(seed)) for s in side]) for side in (kept, samples))
        assert torch.equal(ours.texts.tokens, theirs.texts.tokens)
        assert torch.equal(ours.texts.ids, theirs.texts.ids)
        assert torch.equal(ours.lexemes.span, theirs.lexemes.span)
        assert ours.counts == theirs.counts


def test_plain_texts_are_not_tokenised(monkeypatch):
    sample = with_tokens(make_sample(0))
    monkeypatch.setattr("datamodules.batching.tokenizer._encode", None)
    for caption in ("whole", "sampled"):
        prepare = SamplePreprocessor(16, Squash(), GrainSampling(2, 3, 1, caption), Tokenizer(77), random_texts=True)
        assert prepare(sample, random.Random(0)).grains


def test_tokens_of_other_texts_are_refused():
    sample, other = make_sample(0), with_tokens(make_sample(1, phrases=()))
    with pytest.raises(SampleError, match="not of this sample's"):
        read_tokens(Sample(**{**vars(sample), "tokens": other.tokens}))
    assert read_tokens(sample) is None


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_damaged_tokens_are_told(data):
    sample = with_tokens(make_sample(0))
    raw = bytearray(sample.tokens)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        known = read_tokens(Sample(**{**vars(sample), "tokens": bytes(raw)}))
    except SampleError as error:
        reason = error.reason
    else:
        reason = "tokens" if known is None or all(len(ids) >= 2 for ids in known.ids.values()) else ""
    assert reason == "tokens"


def test_a_model_of_another_tokenizer_refuses_them(tmp_path):
    """With one line that names the shard, though a damaged sample would only be left out."""
    shard = write_tar(tmp_path / "train-000.tar", [with_tokens(make_sample(number)) for number in range(4)])
    data = GranularityData([str(shard)], batch_size=2, num_workers=0, image_size=16)
    data.setup("fit")
    next(iter(data.train_dataloader()))
    data.input_format = InputFormat(LibraryTokenizer(gemma(), 64))
    with pytest.raises(DataError, match=r"train-000\.tar: its stored token ids are CLIP's and the model has another"):
        next(iter(data.train_dataloader()))
