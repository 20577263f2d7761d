"""Sentences and phrases: verbatim pieces of the caption, the cuts where a reader would make them."""

from __future__ import annotations

import json
import re

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.granularity.cutting import cut_phrases, extract_phrases, sentence_spans, split_sentences
from datamodules.granularity.lemmatizer import singular
from datamodules.granularity.nltk_data import NltkDataError, missing_nltk_data, require_nltk_data

pytestmark = pytest.mark.usefixtures("nltk_data")

SENTENCES = [
    ["It is 3.5 m tall.", "The sign says $1.50."],
    ["Mr. Smith met Dr. J. K. Brown and Mrs. Green.", "They left."],
    ["The U.S. flag waves at the U.S. Navy base.", "It was made in the U.S.", "The car is red."],
    ["It is approx. 3 in. wide and 5 ft. tall, e.g. a box.", "It is No. 7 on St. John's list."],
    ["The cat is in.", "the dog is out."],
    ["At 5 p.m. the sun sets.", "The photo is from 5 p.m.", "It is dark."],
    ['A sign reads "STOP. NO ENTRY! " in red.', '"Hello. How are you?" is on the mat.'],
    ['It reads "TELLS ALL $1. 00" in bold.', "Below it is a clock."],
    ['The sign says "EXIT."', "A wall is behind it."],
    ["The sky is blue... and clear.", "Wait... A bird!"],
    ["(It is daytime.)", "Is it warm?", "Yes!"],
    ["It forms the letter S.", "There is grass behind it."],
    ["Built Est. 1912 by Acme Inc. of Boston.", "Vol. 2 is missing."],
]


@pytest.mark.parametrize("sentences", SENTENCES, ids=lambda sentences: sentences[0][:20])
def test_sentences_end_where_a_reader_ends_them(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("1. A red car. 2. A blue car. 3) A dog.", ["A red car.", "A blue car.", "A dog."]),
        (
            "Items:\n- A red car\n* A blue car\n• 2.5 dogs\n\nThe end",
            ["Items:", "A red car", "A blue car", "2.5 dogs", "The end"],
        ),
        (
            "A dog sits next to\nthe cat and\nlooks up.\nA bird flies.",
            ["A dog sits next to\nthe cat and\nlooks up.", "A bird flies."],
        ),
        ("A dog in front of\nBig Ben.\r\n\r\nIt is day", ["A dog in front of\nBig Ben.", "It is day"]),
        ("The wall.The boar is big.", ["The wall.", "The boar is big."]),
        ("See www.Google.com or v2.0.Final now.", ["See www.Google.com or v2.0.Final now."]),
        ("  A dog .  ", ["A dog ."]),
        ("", []),
        (" \n ... - \n", []),
    ],
)
def test_lists_newlines_and_odd_text(text, sentences):
    assert split_sentences(text) == sentences


def found(text: str) -> list[tuple[str, str]]:
    return [(phrase.text, phrase.lemma) for phrase in extract_phrases(text, split_sentences(text))]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        (
            "A black and white cat sits on the old wooden bench.",
            ["A black and white cat:cat", "sits on:", "the old wooden bench:bench"],
        ),
        (
            "An elephant standing under a red, white and blue umbrella.",
            ["An elephant:elephant", "standing under:", "a red, white and blue umbrella:umbrella"],
        ),
        ("Two men are riding their bikes.", ["Two men:man", "their bikes:bike"]),
        ("A group of people and a pair of scissors.", ["A group of people:person", "a pair of scissors:scissors"]),
        ("A parking lot of cars.", ["A parking lot:lot", "cars:car"]),
        ("The boar's open mouth.", ["The boar's open mouth:mouth"]),
        ("Mr. Smith's 3.5-inch hat in the U.S. Navy.", ["Mr. Smith's 3.5-inch hat:hat", "the U.S. Navy:navy"]),
        ("An orange and white cat beside an orange.", ["An orange and white cat:cat", "an orange:orange"]),
        ("LOTS OF BROKEN TOILETS ON A LAWN.", ["LOTS OF BROKEN TOILETS:toilet", "A LAWN:lawn"]),
        ("He has two old TVs.", ["two old TVs:tv"]),
        ("A herd of sheep grazing in a field.", ["A herd of sheep:sheep", "grazing in:", "a field:field"]),
        ("A white\nhouse.", ["A white\nhouse:house"]),
    ],
)
def test_noun_phrases_with_their_heads(text, phrases):
    assert [f"{text}:{lemma}" for text, lemma in found(text)] == phrases


@pytest.mark.parametrize(
    ("text", "relations"),
    [
        ("A lamp is next to a bed.", ["next to"]),
        ("To the left of the dog is a cat.", ["To the left of"]),
        ("A cat on top of a box, in front of a wall.", ["on top of", "in front of"]),
        ("A cat sitting on top of a box.", ["sitting on top of", "on top of"]),
        ("A clock attached to the wall on the left side.", ["attached to", "on the left side"]),
        ("A box is on the top shelf.", []),
        ("A rope used to hold a boat.", []),
        ("The lamp is on and has been on.", []),
    ],
)
def test_relations_and_actions_name_no_thing(text, relations):
    assert [text for text, lemma in found(text) if not lemma] == relations


@pytest.mark.parametrize(
    "text",
    [
        "The image shows it.",
        "This is the picture.",
        "The left side and the other one.",
        "They see themselves and someone.",
        "It is white and in the background.",
        "The upper right corner of the frame.",
    ],
)
def test_phrases_that_say_nothing_are_left_out(text):
    assert [text for text, lemma in found(text) if lemma] == []


def test_phrases_that_say_nothing_stand_apart():
    caption = "The image shows a dog in the background. The Image is  the  image of a cat."
    phrases, stop = cut_phrases(caption, split_sentences(caption))
    assert [phrase.text for phrase in phrases] == ["a dog", "a cat"]
    assert [(phrase.text, phrase.sentence) for phrase in stop] == [("The image", 0), ("the background", 0)]
    assert all(caption[phrase.start : phrase.end] == phrase.text for phrase in stop)


def test_a_phrase_stands_once_whatever_its_case():
    caption = "A dog runs. The cat sees a dog. Near the CAT is A  Dog."
    phrases = extract_phrases(caption, split_sentences(caption))
    assert [(phrase.text, phrase.sentence) for phrase in phrases] == [("A dog", 0), ("The cat", 1)]


def test_offsets_count_from_the_caption():
    caption = "A dog. A dog and a cat."
    phrases = extract_phrases(caption, ["A dog.", "A dog and a cat."])
    assert [(p.text, p.sentence, p.start, p.end) for p in phrases] == [("A dog", 0, 0, 5), ("a cat", 1, 17, 22)]


@pytest.mark.parametrize("sentences", [["A cat."], ["A dog.", "A dog."], [""]])
def test_sentences_must_stand_in_the_caption(sentences):
    with pytest.raises(ValueError, match=r"must be pieces of the caption, in order; sentence \d is '"):
        extract_phrases("A dog.", sentences)


CHARACTERS = st.sampled_from("aA b.!?\"'“”’()-,;:\n\r\t1.5$é本🐕\u2028\x00") | st.characters(codec="utf-8")
WORDS = [
    "A dog",
    "is",
    "Mr.",
    "3.5 m",
    "U.S.",
    '"',
    ".",
    "\n",
    "next to",
    "- ",
    "the",
    "red",
    "No.",
    "of",
    "lots",
    "'s",
]


@settings(max_examples=80, deadline=None)
@given(st.text(CHARACTERS, max_size=80) | st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
def test_any_text_gives_verbatim_pieces_in_order(text):
    check_pieces(text)


def check_pieces(text: str) -> tuple[int, int]:
    spans, sentences = sentence_spans(text), split_sentences(text)
    assert [text[start:end] for start, end in spans] == sentences
    assert all(sentence == sentence.strip() and re.search(r"\w", sentence) for sentence in sentences)
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    assert edges == sorted(edges)
    phrases = extract_phrases(text, sentences)
    assert [phrase.sentence for phrase in phrases] == sorted(phrase.sentence for phrase in phrases)
    for phrase in phrases:
        start, end = spans[phrase.sentence]
        assert start <= phrase.start < phrase.end <= end
        assert text[phrase.start : phrase.end] == phrase.text
    keys = [" ".join(phrase.text.lower().split()) for phrase in phrases]
    assert len(set(keys)) == len(keys)
    return len(sentences), len(phrases)


@pytest.fixture(scope="module")
def docci(shared) -> list[str]:
    with (shared / "data" / "docci_captions.jsonl").open() as lines:
        return [json.loads(line)["caption"] for line, _ in zip(lines, range(300), strict=False)]


def test_real_captions(docci):
    counts = [check_pieces(caption) for caption in docci]
    sentences, phrases = (sum(column) / len(docci) for column in zip(*counts, strict=True))
    assert 6.5 < sentences < 7.5
    assert 24 < phrases < 32


def test_nothing_of_a_real_caption_is_lost_or_broken(docci):
    for caption in docci:
        spans = sentence_spans(caption)
        covered = "".join(caption[start:end] for start, end in spans)
        assert re.findall(r"\w", covered) == re.findall(r"\w", caption)
        for start, _ in spans[1:]:
            before = caption[:start].rstrip()
            assert not re.search(r"\b(?:Mr|Mrs|Dr|St|approx|e\.g|i\.e|vs)\.$", before), caption
            assert not (start == len(before) and before[-2:-1].isdigit()), caption  # inside 3.5


def test_a_second_run_gives_the_same(docci):
    first, second = ([extract_phrases(c, split_sentences(c)) for c in docci[:60]] for _ in range(2))
    assert first == second


def test_missing_data_is_named_with_the_command_that_gets_it(monkeypatch, tmp_path):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert missing_nltk_data() == ["punkt_tab", "averaged_perceptron_tagger_eng"]
    with pytest.raises(NltkDataError) as caught:
        require_nltk_data()
    message = str(caught.value)
    assert "python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng" in message
    assert "is missing: python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng" in message
    assert "NLTK_DATA=FOLDER" in message


PLURALS = """man men, person people, fireman firemen, child children, foot feet, tooth teeth, goose geese, mouse mice,
knife knives, shelf shelves, bookshelf bookshelves, leaf leaves, scarf scarves, wolf wolves, glove
gloves, olive olives, wave waves, stove stoves, bus buses, lens lenses, vase vases, house houses, horse
horses, virus viruses, walrus walruses, octopus octopuses, cause causes, iris irises, sunrise sunrises,
box boxes, tax taxes, bench benches, beach beaches, watch watches, headache headaches, brush brushes,
glass-dress glass-dresses, mattress mattresses, prize prizes, waltz waltzes, quiz quizzes, potato
potatoes, shoe shoes, toe toes, canoe canoes, photo photos, city cities, tie ties, cookie cookies, movie
movies, puppy puppies, sky skies, magpie magpies, boy boys, ski skis, taxi taxis, menu menus, statue
statues, axe axes, eye eyes, tree trees, bee bees, tv TVs, omen omens, specimen specimens"""
UNCHANGED = """scissors glasses sunglasses pants jeans sheep fish series species bus gas lens canvas glass grass tennis
cactus iris dress man woman news is us as semen ramen walrus octopus hippopotamus"""


@pytest.mark.parametrize("pair", PLURALS.split(","), ids=str.strip)
def test_singular(pair):
    one, many = pair.split()
    assert singular(many) == one
    assert singular(one) == one


@pytest.mark.parametrize("noun", UNCHANGED.split())
def test_what_is_no_plural_stays(noun):
    assert singular(noun) == noun
