"""The tokenizer against OpenAI's ids, against open_clip's own implementation, and its spans."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from datamodules.batching import tokenizer as tokenizer_module
from datamodules.batching.tokenizer import EOT, SOT, Tokenizer, token_hash, word_hash
from tests.helpers.golden import GOLDEN

TEXTS = [
    "a photo of a cat.",
    "a café — naïve “quotes” & 3.5 m² of grass…",
    "  multiple   spaces\n\nand\ttabs  ",
    "HTML &amp; entities &lt;b&gt; &quot;x&quot; &amp;amp;",
    "日本語 mixed with English 🐶",
    "don't can't it's we'll I'D",
    "",
    "\x00\x1b[31mred\x1b[0m ﬁne ＦＵＬＬ",
]


def test_openai_ids():
    lines = (GOLDEN / "openai_tokens.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 50
    for record in map(json.loads, lines):
        for context in (77, 248):
            assert Tokenizer(context)(record["text"]) == record[f"ids_{context}"], record["text"]


@pytest.mark.parametrize("text", TEXTS)
def test_same_as_open_clip(text):
    from open_clip.tokenizer import SimpleTokenizer

    assert Tokenizer(10_000)(text) == [SOT, *SimpleTokenizer().encode(text), EOT]


def test_truncation_keeps_eot():
    text = "word " * 5000
    tokens = Tokenizer(77)(text)
    assert len(tokens) == 77
    assert tokens[0] == SOT
    assert tokens[-1] == EOT
    assert Tokenizer(77).length(text) == 5002


@pytest.mark.parametrize(
    "text",
    [
        "A small red-brown dog's ball lies at 3.5 m, near Mr. Smith's car.",
        "  Two  spaces and a café near the naïve “ball” & dog.",
    ],
)
def test_spans_decode_to_their_phrase(text):
    tokenizer = Tokenizer(77)
    tokens = tokenizer(text)
    for phrase in ("red", "ball", "dog", "spaces", "café", "near", "small red-brown dog's ball", "Smith's car"):
        if phrase not in text:
            continue
        start = text.index(phrase)
        span = tokenizer.span(text, start, start + len(phrase))
        assert span is not None
        assert tokenizer.decode(tokens[span[0] : span[1]]) == tokenizer.decode(tokenizer(phrase))


def test_spans_that_do_not_survive():
    text = "a dog and a caterpillar"
    assert Tokenizer(77).span(text, 12, 15) is None  # "cat" inside "caterpillar"
    assert Tokenizer(77).span(text, 2, 5) == (2, 3)
    assert Tokenizer(4).span(text, 6, 9) is None  # "and" is token 3, where EOT now stands
    assert Tokenizer(4).span(text, 2, 5) == (2, 3)


def test_context_too_short():
    with pytest.raises(ValueError, match="context_length must be at least 3"):
        Tokenizer(2)


def test_hashes():
    assert token_hash([1, 2, 3]) == token_hash((1, 2, 3)) != token_hash([1, 2, 4])
    assert word_hash("") == 0 != word_hash("dog")
    assert word_hash("dog") == word_hash("dog") != word_hash("cat")
    assert -(2**63) <= token_hash([49406]) < 2**63


def test_what_is_kept_of_captions_is_small():
    """A loader's worker reads captions once each: keeping them takes memory and never helps. Phrases come again."""
    tokenizer = Tokenizer(248)
    tokenizer("a red cube")
    tracemalloc.start()
    for number in range(1500):
        caption = f"Number {number}: " + "a red cube beside a wooden ball " * 18
        tokenizer(caption)
        tokenizer.span(caption, 0, 6)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1 << 20
    before = tokenizer_module._encode_phrase.cache_info().hits
    assert tokenizer("a red cube") == tokenizer("a red cube")
    assert tokenizer_module._encode_phrase.cache_info().hits == before + 2
