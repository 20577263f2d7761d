"""Texts of scenes: every statement is read back with patterns of its own and compared with the image's boxes."""

from __future__ import annotations

import re
from statistics import mean

import pytest
from open_clip.tokenizer import SimpleTokenizer

from datamodules import scenes
from datamodules.sample import Phrase, Sample
from datamodules.scenes.backgrounds import PATTERN_WORDS, TONE_WORDS
from datamodules.scenes.words import ADJECTIVES, NOUNS, TEXTURE_NOUNS
from datamodules.scenes.world import Scene, Thing, draw_scene

MANY = 1000
STEMS = {"half": "halves"}  # heads whose base form is no part of the word
Box = tuple[float, float, float, float]

MEANING = {word: ("shape", value) for value, words in NOUNS.items() for word in words}
for attribute, rows in ADJECTIVES.items():
    MEANING |= {word: (attribute, value) for value, words in rows.items() for word in words}
HAVING = {text: value for value, rows in TEXTURE_NOUNS.items() for text, _ in rows}

# the words of a relation against what they claim of two boxes, in the order x0, y0, x1, y1
CLAIMS = {
    r"\bleft\b": lambda a, b: a[2] <= b[0],
    r"\bright\b": lambda a, b: a[0] >= b[2],
    r"\b(above|up)\b": lambda a, b: a[3] <= b[1],
    r"\b(below|lower|down)\b": lambda a, b: a[1] >= b[3],
    r"\b(larger|bigger)\b": lambda a, b: _side(a) > _side(b),
    r"\bsmaller\b": lambda a, b: _side(a) < _side(b),
}
RELATION = re.compile(
    r"(above|higher up|below|lower down|up and|down and|to the (left|right)|left of|right of)\b"
    r"|on the (left|right) side of\b|(larger|bigger|smaller) than\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Scene, Sample]]:
    return [(draw_scene(i, "train", 0), scenes.sample(i, "train")) for i in range(MANY)]


def test_no_word_stands_for_two_values() -> None:
    for rows in (NOUNS, *ADJECTIVES.values(), TONE_WORDS, PATTERN_WORDS):
        words = [word for synonyms in rows.values() for word in synonyms]
        assert len(words) == len(set(words))
    assert len(HAVING) == sum(len(rows) for rows in TEXTURE_NOUNS.values())


def test_phrases_and_sentences_lie_in_the_caption(pairs: list) -> None:
    for _, sample in pairs:
        at = 0
        starts = []
        for sentence in sample.sentences:
            at = sample.caption.index(sentence, at)
            starts.append(at)
            at += len(sentence)
        for phrase in sample.phrases:
            assert sample.caption[phrase.start : phrase.end] == phrase.text
            start = starts[phrase.sentence]
            assert start <= phrase.start < phrase.end < start + len(sample.sentences[phrase.sentence])
            assert phrase.text == phrase.text.strip()
            assert (STEMS.get(phrase.lemma) or phrase.lemma) in phrase.text.lower()


def test_sentences_are_english(pairs: list) -> None:
    for _, sample in pairs:
        for sentence in sample.sentences:
            assert re.fullmatch(r"[A-Z][a-z ,:-]+\.", sentence)
            assert "  " not in sentence
            assert not re.search(r"\ba (hourglass|[aeio])", sentence, re.IGNORECASE)
            assert not re.search(r"\ban (?!hourglass)[^aeio]", sentence, re.IGNORECASE)


def test_captions_are_long_but_fit_the_context(pairs: list) -> None:
    tokenizer = SimpleTokenizer()
    lengths = [len(tokenizer.encode(sample.caption)) + 2 for _, sample in pairs]
    assert min(lengths) >= 60
    assert max(lengths) <= 200
    assert mean(length > 77 for length in lengths) > 0.7


def test_a_linked_phrase_is_true_of_its_thing(pairs: list) -> None:
    linked = 0
    for scene, sample in pairs:
        for phrase, number in _owners(sample):
            assert _fits(phrase.text, scene.things[number]), (phrase, scene.things[number])
            linked += 1
    assert linked > 8 * len(pairs)


def test_every_attribute_and_place_is_told(pairs: list) -> None:
    for scene, sample in pairs:
        owners = dict(_owners(sample))
        places = _places(sample)
        for number, (thing, cell) in enumerate(zip(scene.things, scene.cells, strict=True)):
            sentence = next(s for s, named in places if named == number)
            text = f"{sample.sentences[sentence]} {sample.sentences[sentence + 1 : sentence + 2]}".lower()
            phrases = " ".join(
                p.text for p, n in owners.items() if n == number and p.sentence in (sentence, sentence + 1)
            )
            for attribute in ("size", "colour", "texture"):
                words = ADJECTIVES[attribute][getattr(thing, attribute)]
                having = [t for t, _ in TEXTURE_NOUNS[thing.texture]] if attribute == "texture" else []
                assert any(w in text or w in phrases.lower() for w in (*words, *having)), (thing, text)
            assert _cell(sample, sentence) == cell


def test_references_single_one_thing_out(pairs: list) -> None:
    for scene, sample in pairs:
        for phrase, number in _owners(sample):
            definite = phrase.text.lower().startswith("the ")
            if definite and not _places_in(sample, phrase.sentence):
                fitting = [n for n, thing in enumerate(scene.things) if _fits(phrase.text, thing)]
                assert fitting == [number], (phrase, scene.things)


def test_relations_are_true_of_the_boxes(pairs: list) -> None:
    kinds: dict[str, int] = dict.fromkeys(CLAIMS, 0)
    for _, sample in pairs:
        boxes = {region.phrase: region.box for region in sample.regions}
        linked = {p: sample.phrases[p] for p in boxes if p is not None}
        for relation in (p for p in sample.phrases if RELATION.match(p.text)):
            inside = [p for p, phrase in linked.items() if _within(phrase, relation)]
            around = [
                p
                for p, phrase in linked.items()
                if phrase.sentence == relation.sentence and not _within(phrase, relation)
            ]
            words = relation.text[: linked[inside[0]].start - relation.start].lower()
            claims = [pattern for pattern in CLAIMS if re.search(pattern, words.replace("higher up", "up"))]
            assert claims, relation
            for pattern in claims:
                assert CLAIMS[pattern](boxes[around[0]], boxes[inside[0]]), sample.sentences[relation.sentence]
                kinds[pattern] += 1
    assert min(kinds.values()) > 50


def test_what_things_share_is_true(pairs: list) -> None:
    patterns = (
        r"(?i:the) .* is the only (?P<one>[a-z-]+) shape\.",
        r"Only the .* is (?P<one>[a-z-]+)\.",
        r"(?:The|Both the) .* and the .* are (?:both )?(?P<two>[a-z-]+)\.",
        r"The .* is (?P<two>[a-z-]+), and so is the .*\.",
    )
    seen = [0] * len(patterns)
    for scene, sample in pairs:
        for sentence in sample.sentences[1:]:
            for k, pattern in enumerate(patterns):
                match = re.fullmatch(pattern, sentence)
                if match:
                    word, count = (match["one"], 1) if "<one>" in pattern else (match["two"], 2)
                    attribute, value = MEANING[word]
                    assert sum(getattr(thing, attribute) == value for thing in scene.things) == count
                    seen[k] += 1
    assert min(seen) > 20


def test_backgrounds_are_told_as_they_are(pairs: list) -> None:
    for scene, sample in pairs:
        phrases = [p.text.lower() for p in sample.phrases if p.lemma in ("background", "backdrop")]
        phrases += [s.lower() for s in sample.sentences if re.match(r"The back(ground|drop) is", s)]
        assert phrases
        for text in phrases:
            assert [t for t, words in TONE_WORDS.items() if any(w in text for w in words)] == [scene.tone]
            patterns = [p for p, words in PATTERN_WORDS.items() if any(w in text.split() for w in words)]
            assert patterns in ([scene.pattern], [])


def test_wording_varies(pairs: list) -> None:
    openings = {" ".join(sample.sentences[0].split()[:2]) for _, sample in pairs}
    skeletons = {
        re.sub(r"[a-z-]+", lambda m: "_" if m[0] in MEANING else m[0], sentence.lower())
        for _, sample in pairs[:300]
        for sentence in sample.sentences
    }
    assert len(openings) > 20
    assert len(skeletons) > 1000
    assert {word for _, sample in pairs for word in re.findall(r"[a-z-]+", sample.caption.lower())} >= set(MEANING)


def _side(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _within(inner: Phrase, outer: Phrase) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _owners(sample: Sample) -> list[tuple[Phrase, int]]:
    """The linked phrases with the number of their thing: boxes are distinct and in the order of the things."""
    boxes = list(dict.fromkeys(region.box for region in sample.regions))
    return [(sample.phrases[r.phrase], boxes.index(r.box)) for r in sample.regions if r.phrase is not None]


def _fits(text: str, thing: Thing) -> bool:
    """True if all that a phrase says holds for a thing."""
    text = text.lower()
    for having, value in HAVING.items():
        if re.search(rf"\b{having}$", text) and value != thing.texture:
            return False
    text = re.sub("|".join(HAVING), "", text)
    claims = [MEANING[word] for word in re.findall(r"[a-z-]+", text) if word in MEANING]
    return all(getattr(thing, attribute) == value for attribute, value in claims)


def _places_in(sample: Sample, sentence: int) -> list[Phrase]:
    return [
        p
        for p in sample.phrases
        if p.sentence == sentence and re.match(r"the (top|bottom|upper|lower|middle|centre|very|left|right)\b", p.text)
    ]


def _places(sample: Sample) -> list[tuple[int, int]]:
    """The sentences that tell a place, with the number of the thing that they speak of."""
    owners = _owners(sample)
    placed = [s for s in range(len(sample.sentences)) if _places_in(sample, s)]
    return [(s, next(n for p, n in owners if p.sentence == s)) for s in placed]


def _cell(sample: Sample, sentence: int) -> int:
    (place,) = _places_in(sample, sentence)
    text = place.text
    row = 0 if re.search("top|upper", text) else 2 if re.search("bottom|lower", text) else 1
    column = 0 if "left" in text else 2 if "right" in text else 1
    return 3 * row + column
