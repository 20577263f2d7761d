"""The words for a scene's background."""

from __future__ import annotations

from random import Random

from datamodules.scenes.phrasing import Text, fill, mention
from datamodules.scenes.world import Scene

TONE_WORDS = {
    "light grey": ("light grey", "pale grey"),
    "cream": ("cream", "beige"),
    "light blue": ("light blue", "pale blue"),
    "light green": ("light green", "mint"),
    "lavender": ("lavender", "lilac"),
    "dark grey": ("dark grey", "charcoal"),
}
PATTERN_WORDS = {
    "plain": ("plain", "clean"),
    "lined": ("lined", "ruled"),
    "squared": ("squared", "gridded"),
    "speckled": ("speckled", "grainy"),
}
PATTERN_NOUNS = {
    "plain": ("no pattern", "pattern"),
    "lined": ("thin lines", "line"),
    "squared": ("a fine grid", "grid"),
    "speckled": ("fine specks", "speck"),
}
NOUNS = ("background", "backdrop")
TEMPLATES = (
    "everything is set against {a}.",
    "all of this stands on {a}.",
    "{a} fills the rest of the picture.",
    "behind it all there is {a}.",
)


def background(scene: Scene, rng: Random) -> Text:
    """A phrase such as "a lined light blue background"."""
    tone, pattern = rng.choice(TONE_WORDS[scene.tone]), rng.choice(PATTERN_WORDS[scene.pattern])
    noun = rng.choice(NOUNS)
    if rng.random() < 0.5:
        return mention(noun, None, f"a {pattern} {tone} {noun}")
    return mention(noun, None, f"a {tone} {noun} with ", _pattern_phrase(scene))


def background_sentence(scene: Scene, rng: Random) -> Text:
    """A sentence about the background alone."""
    noun, tone = rng.choice(NOUNS), rng.choice(TONE_WORDS[scene.tone])
    draw = rng.random()
    if draw < 0.2:
        return fill(
            "the {noun} is {tone} and {pattern}.",
            noun=noun,
            tone=tone,
            pattern=rng.choice(PATTERN_WORDS[scene.pattern]),
        )
    if draw < 0.4:
        return fill("the {noun} is {tone}, with {having}.", noun=noun, tone=tone, having=_pattern_phrase(scene))
    return fill(rng.choice(TEMPLATES), a=background(scene, rng))


def _pattern_phrase(scene: Scene) -> Text:
    text, lemma = PATTERN_NOUNS[scene.pattern]
    return mention(lemma, None, text)
