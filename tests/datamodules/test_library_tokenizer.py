"""Any fast tokenizer: ids, cuts and spans equal to transformers' own."""

from __future__ import annotations

import pickle

import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from datamodules.batching.library_tokenizer import LibraryTokenizer, parse, with_normalizers
from datamodules.batching.tokenizer import clean
from tests.helpers.small_tokenizers import TEXTS, gemma, unigram

ODD = ["", " ", "A RED Cube", "雪が降る 🧊", "a" * 300, "é́ ﬁ İ", "one\ntwo\tthree", "a  b", "it's <b>&amp;</b>"]
KINDS = {"unigram": unigram(), "gemma": gemma(), "with bos": gemma("<bos> $A <eos>")}


def span_of(tokenizer: LibraryTokenizer, text: str, start: int, phrase: str) -> tuple[int, int]:
    """The span of a phrase that has one."""
    span = tokenizer.span(text, start, start + len(phrase))
    assert span is not None, phrase
    return span


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [8, 64])
def test_ids_are_transformers(kind, length):
    theirs = PreTrainedTokenizerFast(tokenizer_object=parse(KINDS[kind]))
    ours = LibraryTokenizer(KINDS[kind], length)
    for text in [*TEXTS, *ODD]:
        assert ours(text) == theirs(text, truncation=True, max_length=length)["input_ids"], text
        assert ours.length(text) == len(theirs(text)["input_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_text_keeps_its_last_special_token(kind):
    ours = LibraryTokenizer(KINDS[kind], 8)
    whole = ours.whole(TEXTS[0])
    assert len(whole) > 8
    assert ours.cut(whole) == (*whole[:7], whole[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_span_holds_the_phrase(kind):
    """Of every word; also where its token holds the space before it, and where case and punctuation are gone."""
    json = KINDS[kind] if kind == "unigram" else with_normalizers(KINDS[kind], normalizers.Lowercase())
    ours = LibraryTokenizer(json, 200)
    for text in (TEXTS[0], TEXTS[0].upper(), TEXTS[3].replace(" ", "  ")):
        place = 0
        for word in text.replace(".", " ").split():
            place = text.index(word, place)
            assert ours.decode(ours(text)[slice(*span_of(ours, text, place, word))]) == word.lower()
            place += len(word)


def test_a_span_that_is_cut_off_or_within_a_token():
    text = TEXTS[0]
    start = text.rindex(" ") + 1
    whole, short = LibraryTokenizer(gemma(), 200), LibraryTokenizer(gemma(), 12)
    first, last = span_of(whole, text, start, text[start:])
    assert last == len(whole(text)) - 1  # EOS is of no phrase
    assert short.span(text, start, len(text)) is None
    assert whole.span(text, 3, 4) is None  # "e" of "red"
    assert LibraryTokenizer(gemma(), last + 1).span(text, start, len(text)) == (first, last)
    assert LibraryTokenizer(gemma(), last).span(text, start, len(text)) is None


def test_a_cleaning_in_python():
    ours = LibraryTokenizer(gemma(), 100, clean)
    text = "A  red&amp;blue Cube , lies  here."
    assert ours(text) == LibraryTokenizer(gemma(), 100)("a red&blue cube , lies here.")
    for phrase in ("Cube", "here"):
        start = text.index(phrase)
        assert ours.decode(ours(text)[slice(*span_of(ours, text, start, phrase))]) == phrase.lower()
    assert ours.span(text, 7, 8) is None  # within the escape


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_texts_have_no_special_tokens(kind):
    assert LibraryTokenizer(KINDS[kind], 64).decode(LibraryTokenizer(KINDS[kind], 64)("a red cube")) == "a red cube"


def test_workers_get_it(tmp_path):
    ours = LibraryTokenizer(gemma(), 20, clean)
    ours(TEXTS[0])
    other = pickle.loads(pickle.dumps(ours))
    assert other(TEXTS[0]) == ours(TEXTS[0])
    assert other.json is ours.json  # equal texts of a process are one


def test_padding_and_truncation_of_the_file_are_left_out():
    tokenizer = parse(gemma())
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(3)
    assert LibraryTokenizer(tokenizer.to_str(), 64)(TEXTS[0]) == LibraryTokenizer(gemma(), 64)(TEXTS[0])


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"context_length must be at least 2 \(special tokens and one more\), got 1"):
        LibraryTokenizer(gemma(), 1)
    with pytest.raises(ValueError, match=r"^no tokenizer of the tokenizers library: "):
        LibraryTokenizer("{}", 8)
