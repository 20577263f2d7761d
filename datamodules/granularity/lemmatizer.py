"""The base form of a noun: men -> man, knives -> knife, buses -> bus, glasses -> glasses.

Lemmas decide which phrases name the same thing. A rare noun left in the plural costs little, two nouns with one lemma
cost much: the rules undo the spelling of English plurals, short lists hold the exceptions, and all other words stay as
they are. No data files.
"""

from __future__ import annotations

from functools import lru_cache

_IRREGULAR = {
    **{"people": "person", "children": "child", "feet": "foot", "teeth": "tooth", "geese": "goose", "mice": "mouse"},
    **{"men": "man", "oxen": "ox", "dice": "die", "cacti": "cactus", "fungi": "fungus", "quizzes": "quiz"},
    **{"leaves": "leaf", "loaves": "loaf", "thieves": "thief", "hooves": "hoof", "halves": "half", "calves": "calf"},
    **{"elves": "elf", "shelves": "shelf", "selves": "self", "wolves": "wolf", "scarves": "scarf", "knives": "knife"},
    **{"lives": "life", "wives": "wife", "dwarves": "dwarf", "menus": "menu", "emus": "emu", "tutus": "tutu"},
    **{"uses": "use", "axes": "axe", "pickaxes": "pickaxe", "oases": "oasis", "crises": "crisis"},
}
_IRREGULAR_ENDINGS = ("children", "people", "teeth", "men", "leaves", "shelves", "knives", "wives")  # firemen, ...
_NOT_MEN = {"abdomen", "acumen", "lumen", "omen", "ramen", "regimen", "semen", "specimen", "stamen"}

# Plural only, the same in both numbers, or singular in spite of the s.
_UNCHANGED = {
    *("glasses", "eyeglasses", "sunglasses", "goggles", "binoculars", "scissors", "pliers", "tongs", "tweezers"),
    *("pants", "jeans", "trousers", "shorts", "leggings", "tights", "pajamas", "pyjamas", "overalls", "clothes"),
    *("headphones", "earphones", "surroundings", "belongings", "groceries", "series", "species", "headquarters"),
    *("gas", "lens", "canvas", "atlas", "bias", "alias", "christmas", "news", "barracks", "crossroads", "thanks"),
    *("mathematics", "physics"),
}
_PLURALS_IN_IS = {"bikinis", "kiwis", "paninis", "safaris", "skis", "taxis", "tsunamis", "zucchinis"}
_SINGULAR_IN_IE = {
    *("birdies", "bowties", "brownies", "calories", "collies", "cookies", "hoodies", "magpies", "movies", "neckties"),
    *("prairies", "rookies", "selfies", "smoothies", "veggies", "zombies"),
}
_SINGULAR_IN_O = (
    *("buffaloes", "dominoes", "echoes", "flamingoes", "haloes", "heroes", "mangoes", "mosquitoes", "potatoes"),
    *("tomatoes", "tornadoes", "torpedoes", "volcanoes", "zeroes"),
)
_SINGULAR_IN_CHE = ("headaches", "avalanches", "brioches", "caches", "cliches", "mustaches", "moustaches", "quiches")
_SINGULAR_IN_USE = ("houses", "blouses", "spouses", "auses", "fuses", "excuses", "recluses")
_SINGULAR_IN_S = {"atlases", "biases", "canvases", "gases", "irises", "lenses", "trellises", "rhinoceroses"}


@lru_cache(maxsize=50_000)
def singular(noun: str) -> str:
    """The singular of ``noun`` in lower case; a noun that is no plural is returned in lower case."""
    word = noun.lower()
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _UNCHANGED or word in _NOT_MEN:
        return word
    for ending in _IRREGULAR_ENDINGS:
        if word.endswith(ending):
            return word.removesuffix(ending) + _IRREGULAR[ending]
    if len(word) <= 2 or not word.endswith("s") or word.endswith("ss"):
        return word
    if word.endswith(("us", "is")):
        return word[:-1] if word in _PLURALS_IN_IS else word
    return _without_es(word) if word.endswith("es") else word[:-1]


def _without_es(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 or word in _SINGULAR_IN_IE else word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "tzes")):
        return word[:-1] if word.endswith(_SINGULAR_IN_CHE) else word[:-2]
    if word.endswith("uses"):
        return word[:-1] if word.endswith(_SINGULAR_IN_USE) else word[:-2]
    return word[:-2] if word in _SINGULAR_IN_S or word.endswith(_SINGULAR_IN_O) else word[:-1]
