"""The quick chunker and the quick tagger give what NLTK's give."""

from __future__ import annotations

import json
import re

import pytest

from datamodules import scenes
from datamodules.granularity import noun_phrases
from datamodules.granularity.cutting import extract_phrases, split_sentences
from datamodules.granularity.nltk_data import NltkDataError, perceptron_tagger
from datamodules.granularity.tagger import Tagger, tagger

pytestmark = pytest.mark.usefixtures("nltk_data")
ADJECTIVE = "(<R>{0,2}<[JjGE]>|<Q>(?=<,>?<K><R>{0,2}<[JQ]>))"
MODIFIER = f"({ADJECTIVE}|<C>)"
MORE = f"((<,>?<K>)?{MODIFIER}|<,>{ADJECTIVE})*"
NOUN = "<[NnQ]>"
NOUNS = f"({NOUN}*<N><J>+{NOUN}+|{NOUN}+)"
GRAMMAR = (  # the chunker's, as NLTK writes grammars
    f"NP: {{(<[AD]>{{1,2}}({MODIFIER}{MORE})?{NOUNS}|(<[JjCQ]>{MORE})?{NOUN}+)(<S>({MODIFIER}{MORE})?{NOUN}+)*"
    f"|<A>(({MODIFIER}{MORE})?<[JV]>|<E>)(?!<[NnQJjE]>)}}"
)


@pytest.fixture(scope="module")
def captions(request) -> list[str]:
    """Real captions where they are there, else made-up ones."""
    made_up = [scenes.sample(n, "train").caption for n in range(30)]
    try:
        folder = request.getfixturevalue("shared")
    except pytest.skip.Exception:
        return made_up
    with (folder / "data" / "docci_captions.jsonl").open() as lines:
        return [json.loads(line)["caption"] for line, _ in zip(lines, range(60), strict=False)] + made_up[:10]


def by_regexp_parser(letters: str) -> list[tuple[int, int]]:
    from nltk import RegexpParser, Tree

    tree = RegexpParser(GRAMMAR).parse([(str(number), letter) for number, letter in enumerate(letters)])
    return [(int(chunk[0][0]), int(chunk[-1][0]) + 1) for chunk in tree if isinstance(chunk, Tree)]


def test_the_chunker_gives_what_nltks_parser_gives(captions, monkeypatch):
    """Offsets, lemmas, relations, actions, and what is left out."""
    cut = [(caption, split_sentences(caption)) for caption in captions]
    ours = [extract_phrases(*one) for one in cut]
    monkeypatch.setattr(noun_phrases, "_chunks", by_regexp_parser)
    assert [extract_phrases(*one) for one in cut] == ours
    assert sum(map(len, ours)) > 10 * len(ours)


def test_the_tagger_gives_nltks_tags(captions):
    slow, quick = perceptron_tagger(), tagger()
    for caption in captions:
        words = re.findall(r"\w+(?:-\w+)*|[^\w\s]", caption)
        assert quick.tag(words) == [tag for _, tag in slow.tag(words)]
    for odd in [[], ["a"], ["-x", "1999", "12", "--", "é", "ﬁ"], ["-START-", "-END-"]]:
        assert quick.tag(odd) == [tag for _, tag in slow.tag(odd)]


def test_the_tagger_forgets_words_when_there_are_too_many(captions, monkeypatch):
    monkeypatch.setattr("datamodules.granularity.tagger._CACHED_WORDS", 100)
    model = perceptron_tagger()
    small, words = Tagger(model.model.weights, model.tagdict), captions[0].split()[:40]
    for start in range(30):
        assert small.tag(words[start:]) == tagger().tag(words[start:])
        assert small.tag([f"new{start}-{n}" for n in range(40)])
        assert len(small._rows) <= 100 + 4


def test_equal_votes_go_to_the_later_name():
    assert Tagger({"bias": {"A": 1.0, "B": 1.0, "C": 0.5}}, {"x": "C"}).tag(["y", "x"]) == ["B", "C"]


def test_no_tagger_without_data(monkeypatch, tmp_path):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(NltkDataError):
        tagger.__wrapped__()
