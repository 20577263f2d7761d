"""The batch: every text once, grains as an index, boxes and links in their rows, ids equal for equal texts."""

from __future__ import annotations

import random

import pytest
import torch

from datamodules.batch import Grain, Skip, join
from datamodules.batching.collate import SamplePreprocessor, collate, empty_batch, pack_texts
from datamodules.batching.image_transforms import Squash
from datamodules.batching.region_sampling import RegionSampling
from datamodules.batching.text_sampling import GrainSampling
from datamodules.batching.tokenizer import Tokenizer, token_hash, word_hash
from datamodules.sample import Choice, Phrase, Region
from tests.helpers.tiny import make_sample


def preparer(context: int = 77, random_texts: bool = False, **sampling) -> SamplePreprocessor:
    return SamplePreprocessor(32, Squash(), GrainSampling(**sampling), Tokenizer(context), random_texts)


def batch_of(samples, prepare=None, **kwargs):
    prepare = prepare or preparer()
    return collate([prepare(s, random.Random(s.key)) for s in samples], **kwargs)


def text_of(batch, row: int) -> list[int]:
    return batch.texts.tokens[batch.texts.offsets[row] : batch.texts.offsets[row + 1]].tolist()


def test_stop_phrases_come_when_they_are_asked_for():
    sample = make_sample(0, stop_phrases=tuple(Phrase("A", s, 0, 1) for s in (0, 1, 1)))
    phrase_texts = {phrase.text for phrase in sample.phrases}
    for seed in range(5):
        drawn = {n: GrainSampling(stop_phrases=n).draw(sample, random.Random(seed)).phrases for n in (0, 1)}
        assert drawn[0] == GrainSampling().draw(sample, random.Random(seed)).phrases
        assert {phrase.text for phrase in drawn[0]} == phrase_texts
        assert sorted(phrase.text for phrase in drawn[1]) == sorted([*phrase_texts, "A"])
    first = GrainSampling(stop_phrases=3, phrases=2).draw(sample, None)
    assert [phrase.start for phrase in first.phrases] == [0, 0]
    joined = GrainSampling(sentences=1, caption="sampled", choice="first", stop_phrases=9)
    assert {phrase.sentence for phrase in joined.draw(sample, random.Random(0)).phrases} == {0}


def test_every_slot_points_at_its_text():
    samples = [make_sample(n) for n in range(5)]
    batch = batch_of(samples, preparer(summaries=1))
    tokenizer = Tokenizer(77)
    for b, sample in enumerate(samples):
        expected = {
            Grain.CAPTION: [sample.caption],
            Grain.SUMMARY: [sample.sentences[0]],
            Grain.SENTENCE: list(sample.sentences),
            Grain.PHRASE: [p.text for p in sample.phrases],
        }
        for grain, texts in expected.items():
            slots = batch.grains[grain]
            assert slots.valid[b].sum() == len(texts)
            assert slots.index.shape[1] == max(int(slots.valid.sum(1).max()), 1)
            assert [text_of(batch, i) for i in slots.index[b][slots.valid[b]].tolist()] == [tokenizer(t) for t in texts]


def test_texts_are_unique_and_hashed():
    batch = batch_of([make_sample(1), make_sample(1, key="again"), make_sample(2)])
    sequences = [tuple(text_of(batch, u)) for u in range(len(batch.texts.ids))]
    assert len(set(sequences)) == len(sequences)
    assert batch.texts.ids.tolist() == [token_hash(s) for s in sequences]
    caption = batch.grains[Grain.CAPTION].index[:, 0]
    assert caption[0] == caption[1] != caption[2]
    assert batch.texts.offsets[-1] == len(batch.texts.tokens)


def test_ragged_grains_are_masked():
    bare = make_sample(3, sentences=(), phrases=(), regions=())
    batch = batch_of([make_sample(2), bare])
    assert batch.grains[Grain.SENTENCE].valid.tolist() == [[True, True], [False, False]]
    assert batch.grains[Grain.PHRASE].valid.tolist() == [[True, True], [False, False]]
    assert batch.lexemes.span[1].tolist() == [[0, 0], [0, 0]]
    alone = batch_of([bare])
    assert alone.grains[Grain.PHRASE].valid.tolist() == [[False]]
    assert alone.regions.boxes.shape == (0, 4)
    assert alone.choices.index.shape[0] == 0
    joined = join(batch.grains[Grain.CAPTION], batch.grains[Grain.SENTENCE])
    assert joined.valid.tolist() == [[True, True, True], [True, False, False]]


def test_lexemes_decode_to_their_phrase():
    samples = [make_sample(n) for n in range(4)]
    batch = batch_of(samples)
    captions = batch.grains[Grain.CAPTION].index[:, 0].tolist()
    for b, sample in enumerate(samples):
        for k, phrase in enumerate(sample.phrases):
            first, last = batch.lexemes.span[b, k].tolist()
            assert Tokenizer().decode(text_of(batch, captions[b])[first:last]) == phrase.text.lower()
            assert batch.lexemes.lemma[b, k] == word_hash(phrase.lemma)


def test_spans_beyond_the_context_are_marked():
    batch = batch_of([make_sample(0)], preparer(context=8))
    assert batch.lexemes.span[0].tolist()[1] == [0, 0]
    assert batch.counts["truncated/caption"] == 1
    assert len(text_of(batch, 0)) == 8


def test_the_first_label_of_a_box_counts():
    box = (0.0, 0.0, 0.5, 0.5)
    for labels in (["cube", None], [None, "cube"], ["cube", "thing"], [None, "cube", None]):
        sample = make_sample(0, regions=tuple(Region(box, None, label) for label in labels))
        assert batch_of([sample]).regions.label.tolist() == [word_hash("cube")]


def test_boxes_labels_and_links():
    two = make_sample(
        0,
        regions=(
            Region((0.0, 0.0, 0.5, 0.5), 0, "cube"),
            Region((0.0, 0.0, 0.5, 0.5), 1, "cube"),
            Region((0.5, 0.5, 1.0, 1.0), None, None),
        ),
        choices=(Choice(2, "hard", ("right", "wrong", "worse")), Choice(0, "easy", ("yes", "no"))),
    )
    batch = batch_of([make_sample(1), two])
    assert batch.regions.boxes.shape == (3, 4)
    assert batch.regions.image.tolist() == [0, 1, 1]
    assert batch.regions.label.tolist() == [word_hash("cube"), word_hash("cube"), 0]
    assert batch.regions.links.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert batch.choices.region.tolist() == [2, 1]
    assert [batch.choices.levels[i] for i in batch.choices.level.tolist()] == ["hard", "easy"]
    assert batch.choices.valid.tolist() == [[True, True, True], [True, True, False]]
    assert text_of(batch, int(batch.choices.index[1, 0])) == Tokenizer(77)("yes")


def test_equal_words_for_two_things_keep_their_own_boxes():
    caption = "A man. A man."
    two = make_sample(
        0,
        caption=caption,
        sentences=("A man.", "A man."),
        phrases=(Phrase("A man", 0, 0, 5, "man"), Phrase("A man", 1, 7, 12, "man")),
        regions=(Region((0.0, 0.0, 0.5, 0.5), 0), Region((0.5, 0.5, 1.0, 1.0), 1)),
    )
    batch = batch_of([two])
    assert len(batch.regions.boxes) == 2
    assert batch.regions.links.tolist() == [[0, 0]]  # the words are drawn once, with the place and box of one of them


def test_drawing_is_random_in_training_only_and_repeatable():
    sample = make_sample(7, sentences=tuple(f"Sentence {i}." for i in range(9)))
    evaluation = preparer(sentences=3)
    assert evaluation(sample, random.Random(1)).grains == evaluation(sample, random.Random(2)).grains
    training = preparer(sentences=3, random_texts=True)
    drawn = [tuple(training(sample, random.Random(seed)).grains[Grain.SENTENCE]) for seed in range(8)]
    assert len(set(drawn)) > 4
    assert drawn[0] == tuple(training(sample, random.Random(0)).grains[Grain.SENTENCE])


def test_sampled_caption_joins_the_drawn_sentences():
    sample = make_sample(7, sentences=("One.", "Two.", "Three."), phrases=(Phrase("A", 0, 0, 1), Phrase("c", 2, 9, 10)))
    for seed in range(10):
        drawn = GrainSampling(sentences=2, caption="sampled").draw(sample, random.Random(seed))
        assert drawn.caption == " ".join(drawn.sentences)
        assert {p.sentence for p in drawn.phrases} <= {sample.sentences.index(s) for s in drawn.sentences}
        assert not drawn.verbatim
    assert GrainSampling(caption="sampled").draw(sample, None).caption == sample.caption


def test_a_text_as_long_as_the_context_is_not_cut():
    sample = make_sample(0)
    length = len(Tokenizer(77)(sample.caption))
    for context, cut in ((length, 0), (length - 1, 1)):
        prepare = SamplePreprocessor(16, Squash(), GrainSampling(0, 0), Tokenizer(context), random_texts=False)
        batch = collate([prepare(sample, random.Random(0))])
        assert batch.counts.get("truncated/caption", 0) == cut


def test_defaults_of_sampling_are_the_documented_ones():
    assert GrainSampling() == GrainSampling(5, 30, 0, "whole", "stored", "random", 0)
    assert RegionSampling() == RegionSampling(None, 0, 1.5, 0.0)


def test_grains_without_a_text_have_one_empty_slot():
    batch = batch_of([make_sample(n, phrases=(), regions=()) for n in range(2)])
    for grain, width in ((Grain.CAPTION, 1), (Grain.PHRASE, 1)):
        assert batch.grains[grain].index.shape == (2, width)
    assert not batch.grains[Grain.PHRASE].valid.any()


def test_an_empty_batch_has_one_text_and_no_row_of_anything_else():
    batch = empty_batch(preparer(), [Skip("image", "a.tar", "k", "broken")])
    parts = [batch.images, batch.ids, *batch.lexemes, *batch.regions, *batch.crops, *batch.choices[:-1]]
    parts += [tensor for slots in batch.grains.values() for tensor in slots]
    assert {len(part) for part in parts} == {0}
    assert {slots.index.shape for slots in batch.grains.values()} == {(0, 1)}
    assert batch.texts.offsets.tolist() == [0, 2]  # of an empty text: its start and its end
    assert batch.regions.links.shape == (0, 2)
    assert batch.regions.boxes.shape == (0, 4)
    assert batch.lexemes.span.shape == (0, 1, 2)
    assert (batch.keys, batch.counts) == ([], {"skipped/image": 1})


def test_skips_travel_with_the_batch():
    batch = batch_of([make_sample(0)], skipped=[Skip("json", "a.tar", "k", "broken")] * 2)
    assert batch.counts["skipped/json"] == 2


def test_pack_texts():
    texts, index = pack_texts(["b", "a", "b"], Tokenizer(77))
    assert index.tolist() == [0, 1, 0]
    assert texts.offsets.tolist() == [0, 3, 6]
    assert torch.equal(texts.tokens[:3], torch.tensor(Tokenizer(77)("b")))


def test_choice_of_sentences_and_summary():
    sentences = tuple(f"Sentence number {i}." for i in range(6))
    sample = make_sample(0, caption=" ".join(sentences), sentences=sentences, phrases=(), regions=(), summary="A few.")
    first = GrainSampling(sentences=3, summaries=1, choice="first", summary="sentence").draw(sample, random.Random(1))
    assert first.sentences == list(sentences[:3])
    assert first.summaries == [sentences[0]]
    drawn = [GrainSampling(sentences=3, summaries=1).draw(sample, random.Random(seed)) for seed in range(9)]
    assert len({tuple(d.sentences) for d in drawn}) > 1
    assert all(d.summaries == ["A few."] for d in drawn)
    for bad in ({"choice": "last"}, {"summary": "long"}):
        with pytest.raises(ValueError, match="must be"):
            GrainSampling(**bad)
