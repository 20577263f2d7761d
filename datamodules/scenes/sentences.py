"""Captions of scenes, sentence by sentence.

A caption has a summary, one or two sentences for each thing that name all its attributes and its position, sentences on
relations between things and on what they share, and one on the background. All sentences are true; references such as
"the blue star" fit one thing only.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from datamodules.scenes.backgrounds import background, background_sentence
from datamodules.scenes.phrasing import Caption, Piece, Text, fill, joined, lay_out, listed, mention
from datamodules.scenes.relations import location_phrase, relation_sentence, shared_sentence
from datamodules.scenes.words import ATTRIBUTES, Wording, article, noun_phrase, refer
from datamodules.scenes.world import MIN_THINGS, Scene, Thing

MIN_WORDS = 54  # with full stops, SOT and EOT at least 60 tokens
ENOUGH_WORDS = 125  # another sentence then ends well below 200 tokens
SHARED_SHARE = 0.5
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
VERBS = ("sits", "lies", "is", "stands", "appears", "is placed", "can be seen")

SUMMARIES = (
    "{list} on {background}.",
    "a picture of {list}.",
    "the picture shows {list}.",
    "{number} shapes on {background}: {list}.",
    "{number} shapes: {list}.",
    "we see {list} on {background}.",
)
# all attributes in one noun phrase; some in the predicate; some in a sentence of their own
WHOLE = (
    ("{a} {verb} {place}.",),
    ("{place} {verb} {a}.",),
    ("{place} there is {a}.",),
    ("there is {a} {place}.",),
    ("one can see {a} {place}.",),
)
PARTED = (
    ("{a} {verb} {place} and {predicate}.",),
    ("{the} {place} {predicate}.",),
    ("{place} {verb} {a} that {predicate}.",),
    ("there is {a} {place}, and it {predicate}.",),
)
PAIRED = (
    ("{a} {verb} {place}.", "{it} {predicate}."),
    ("{place} there is {a}.", "{it} {predicate}."),
    ("{place} {verb} {a}.", "{it} {predicate}."),
)


def describe(scene: Scene, rng: Random) -> Caption:
    """A caption for the scene, its sentences (the first is the summary), and every phrase in it."""
    count = len(scene.things)
    sentences = [summary(scene, rng)]
    for number in rng.sample(range(count), count):
        new_sentences = thing_sentences(scene, number, rng)
        while _is_repeated(new_sentences[-1], sentences):  # "It is small." may be true of two things
            new_sentences = thing_sentences(scene, number, rng)
        sentences.extend(new_sentences)
    sentences.insert(rng.choice((1, len(sentences))), background_sentence(scene, rng))
    sentences.append(relation_sentence(scene, rng))
    if rng.random() < SHARED_SHARE:
        _add(sentences, shared_sentence(scene, rng))
    if count > MIN_THINGS:
        _add(sentences, relation_sentence(scene, rng))
    while _words(sentences) < MIN_WORDS:
        _add(sentences, relation_sentence(scene, rng))
    return lay_out(sentences)


def _add(sentences: list[Text], sentence: Text | None) -> None:
    """Append a sentence, unless it is repeated or the caption is long enough."""
    if sentence is not None and _words(sentences) < ENOUGH_WORDS and not _is_repeated(sentence, sentences):
        sentences.append(sentence)


def _is_repeated(sentence: Text, sentences: list[Text]) -> bool:
    return any(sentence.text == other.text for other in sentences)


def _words(sentences: list[Text]) -> int:
    return sum(sentence.text.count(" ") + 1 for sentence in sentences)


def summary(scene: Scene, rng: Random) -> Text:
    """One sentence that lists the things by their shape and at most a few attributes."""
    items = [refer(scene, n, rng, determiner="a") for n in rng.sample(range(len(scene.things)), len(scene.things))]
    return fill(
        rng.choice(SUMMARIES),
        list=listed(items),
        background=background(scene, rng),
        number=NUMBERS[len(items)],
    )


def thing_sentences(scene: Scene, number: int, rng: Random) -> list[Text]:
    """One or two sentences that name all attributes of a thing and its position."""
    templates = rng.choices((WHOLE, PARTED, PAIRED), (5, 3, 2))[0]
    texts = rng.choice(templates)
    predicate_attributes = () if templates is WHOLE else rng.sample(ATTRIBUTES, rng.randint(1, 2))
    wording, thing = Wording(rng), scene.things[number]
    determiner = "the" if "{the}" in texts[0] else "a"
    slots: dict[str, Piece] = {
        determiner: noun_phrase(
            thing, number, [a for a in ATTRIBUTES if a not in predicate_attributes], wording, determiner
        ),
        "verb": rng.choice(VERBS),
        "place": location_phrase(scene.cells[number], rng),
    }
    if predicate_attributes:
        noun = wording.noun(thing)
        slots["predicate"] = _predicate(thing, number, predicate_attributes, wording)
        slots["it"] = rng.choice(("it", "the shape", mention(noun, number, f"this {noun}")))
    return [fill(text, **slots) for text in texts]


def _predicate(thing: Thing, number: int, attributes: Sequence[str], wording: Wording) -> Text:
    """Attributes as a verb phrase: "is small and has a striped pattern"."""
    pieces: list[Piece] = []
    verb = ""
    for attribute in attributes:
        previous, (verb, complement) = verb, _attribute_predicate(thing, number, attribute, wording)
        if previous:
            pieces.append(" and ")
        if verb != previous:
            pieces.append(f"{verb} ")
        pieces.append(complement)
    return joined(pieces)


def _attribute_predicate(thing: Thing, number: int, attribute: str, wording: Wording) -> tuple[str, Piece]:
    """One attribute as a verb and its complement."""
    word = wording.adjective(thing, attribute)
    if attribute == "size" or wording.rng.random() < 0.5:
        return "is", word
    if attribute == "texture":
        return "has", wording.texture(thing, number)
    if wording.rng.random() < 0.5:
        return "is", f"painted {word}"
    return "has", mention("colour", number, f"{article(word)} {word} colour")
