"""Maps a phrase to one of COCO's categories by its head noun: "two young men" names the category person.

The words for a category are its own name and the everyday words for it. Names of several words are compared with the
phrase's last words, longest first: "a hot dog" is no dog. A word that may stand for several categories ("bike") names
the first of them that the image has boxes of.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from datamodules.granularity.lemmatizer import singular
from datamodules.sample import Phrase

_ALSO = {
    "person": "man, woman, boy, girl, child, kid, baby, toddler, infant, guy, lady, gentleman, male, female, adult, "
    "teenager, teen, youth, couple, crowd, family, player, baseball player, tennis player, batter, catcher, umpire, "
    "pitcher, skier, snowboarder, skateboarder, skater, surfer, swimmer, cyclist, bicyclist, biker, motorcyclist, "
    "rider, jockey, driver, passenger, pedestrian, tourist, spectator, athlete, worker, officer, policeman, cop, "
    "fireman, soldier, chef, cook, waiter, waitress, student, teacher, bride, groom, businessman, friend, mother, "
    "mom, father, dad, son, daughter, brother, sister, cowboy, farmer, fisherman, boarder, human, individual",
    "bicycle": "bike, tricycle",
    "car": "automobile, taxi, cab, sedan, suv, jeep, van, minivan, convertible",
    "motorcycle": "motorbike, bike, motor bike, dirt bike, moped, scooter, motor scooter",
    "airplane": "plane, aeroplane, aircraft, jet, airliner, jetliner, jumbo jet, biplane",
    "bus": "double-decker, double decker, school bus, minibus",
    "train": "locomotive, tram, trolley, streetcar, subway, train car, train engine",
    "truck": "pickup, lorry, van, fire engine, firetruck, semi",
    "boat": "ship, sailboat, canoe, kayak, yacht, ferry, rowboat, speedboat, gondola",
    "traffic light": "stoplight, stop light, traffic signal",
    "fire hydrant": "hydrant, firehydrant",
    "parking meter": "meter",
    "bird": "duck, goose, pigeon, seagull, gull, parrot, swan, owl, eagle, hawk, crow, pelican, flamingo, peacock, "
    "sparrow, ostrich, heron, duckling, rooster, hen, chicken, dove, penguin, parakeet",
    "cat": "kitten, kitty",
    "dog": "puppy, poodle, bulldog, labrador, terrier, dachshund",
    "horse": "pony, foal, colt",
    "sheep": "lamb, ram, ewe",
    "cow": "bull, ox, calf, cattle, steer",
    "elephant": "calf",
    "bear": "cub",
    "backpack": "bag, knapsack, rucksack",
    "umbrella": "parasol",
    "handbag": "purse, bag, tote",
    "tie": "necktie, bow tie, bowtie",
    "suitcase": "luggage, baggage, bag, briefcase",
    "frisbee": "disc, disk",
    "snowboard": "board",
    "sports ball": "ball, baseball, football, basketball",
    "baseball bat": "bat",
    "baseball glove": "glove, mitt, catcher's mitt",
    "skateboard": "board",
    "surfboard": "board, surf board",
    "tennis racket": "racket, racquet, tennis racquet, paddle",
    "wine glass": "wine glasses, wineglass, glass",
    "cup": "glass, mug",
    "sandwich": "hamburger, burger, cheeseburger, sub",
    "hot dog": "hotdog",
    "donut": "doughnut, pastry",
    "cake": "cupcake",
    "couch": "sofa, loveseat",
    "chair": "armchair, highchair",
    "potted plant": "plant, houseplant",
    "dining table": "table",
    "toilet": "commode",
    "laptop": "laptop computer, computer",
    "tv": "television, television set, tv set, flat screen, screen, monitor, computer",
    "remote": "remote control, controller, wii remote",
    "cell phone": "phone, cellphone, smartphone, iphone, mobile phone",
    "oven": "stove",
    "sink": "washbasin, basin",
    "refrigerator": "fridge",
    "teddy bear": "teddy, stuffed bear, stuffed animal",
    "hair drier": "hairdryer, hair dryer, blow dryer, dryer",
}
_NEVER = ("hot dog", "corn dog", "teddy bear", "stuffed bear", "sea horse", "flower bed", "truck bed", "pin ball")


class CategoryNames:
    """The words for each of ``categories``: COCO's eighty, or any others, which have only their own names."""

    def __init__(self, categories: Sequence[str]) -> None:
        self._of_word: dict[str, list[str]] = {name: [] for name in _NEVER}
        coco_categories = [category for category in _ALSO if category in categories]
        for category in [*coco_categories, *(category for category in categories if category not in _ALSO)]:
            for name in (category, *filter(None, _ALSO.get(category, "").split(", "))):
                words = name.lower().replace("-", " ").split()
                if words:
                    self._of_word.setdefault(" ".join([*words[:-1], singular(words[-1])]), []).append(category)

    def phrases_by_label(self, phrases: Sequence[Phrase], labels: Collection[str]) -> dict[str, list[int]]:
        """For each of ``labels``, the categories of an image's boxes, the indices of the phrases that name it."""
        phrases_of: dict[str, list[int]] = {label: [] for label in labels}
        for index, phrase in enumerate(phrases):
            category = next((c for c in self._categories(phrase) if c in phrases_of), None)
            if category is not None:
                phrases_of[category].append(index)
        return phrases_of

    def _categories(self, phrase: Phrase) -> list[str]:
        """The categories that the phrase's last words may name; the longest name counts."""
        if not phrase.lemma:
            return []
        *first, _ = phrase.text.lower().split()
        if "no" in first:
            return []
        words = " ".join([*first, phrase.lemma]).replace("-", " ").split()
        names = (" ".join(words[-length:]) for length in (3, 2, 1))
        return next((self._of_word[name] for name in names if name in self._of_word), [])
