"""The strings behind a batch, with their case, by the ids of the batch."""

from __future__ import annotations

from datamodules import GrainSampling, GranularityData
from datamodules.batch import Grain
from datamodules.batching.tokenizer import Tokenizer
from datamodules.reading.text_notes import shorten
from tests.helpers.tiny import make_sample, write_tar


def first(tmp_path, samples, context_length):
    shards = [str(write_tar(tmp_path / "a.tar", samples))]
    data = GranularityData(
        shards, shards, batch_size=2, val_batch_size=2, num_workers=0, image_size=16, context_length=context_length,
        sampling=GrainSampling(2, 2),
    )  # fmt: skip
    data.setup("fit")
    batch, texts = data.first_val_samples()
    return {
        grain: [texts[int(batch.texts.ids[slots.index[0][k]])] for k in range(int(slots.valid[0].sum()))]
        for grain, slots in batch.grains.items()
    }


def test_every_text_of_the_first_batch_keeps_its_case(tmp_path):
    samples = [make_sample(number) for number in range(3)]
    read = first(tmp_path, samples, 77)
    assert read[Grain.CAPTION] == [samples[0].caption]
    assert read[Grain.SENTENCE] == list(samples[0].sentences)
    assert read[Grain.PHRASE] == [phrase.text for phrase in samples[0].phrases]
    assert read[Grain.CAPTION][0] != read[Grain.CAPTION][0].lower()


def test_a_text_beyond_the_context_ends_where_the_model_stops_reading(tmp_path):
    samples = [make_sample(number) for number in range(2)]
    (caption,) = first(tmp_path, samples, 9)[Grain.CAPTION]
    assert samples[0].caption.startswith(caption.removesuffix(" …"))
    assert caption.endswith(" …")
    tokenizer = Tokenizer(9)
    assert caption == "A red cube number 0 lies …"
    assert tokenizer.length("A red cube number 0 lies") <= 9 < tokenizer.length("A red cube number 0 lies here.")
    assert shorten("unbelievable" * 30, tokenizer) == "…"
