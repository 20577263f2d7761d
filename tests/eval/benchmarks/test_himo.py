"""HiMo@K by hand, beside SciPy, and as a benchmark on the paper's file, on tables and on shards."""

from __future__ import annotations

import json

import pytest
import torch
from scipy.stats import pearsonr
from torch.nn import functional

from eval.benchmarks.catalogue import benchmark
from eval.benchmarks.himo import prefixes
from eval.interfaces import EvalContext
from eval.protocols.monotonicity import monotonicity
from tests.eval.official import ColourModel, paint
from tests.helpers.tiny import make_sample, write_tar


class Share(ColourModel):
    """A text is the mean of all colours in it: "red red blue" is nearer to red than "red blue"."""

    def encode_text(self, texts):
        colours = ("red", "green", "blue")
        counts = [[sum(word.strip(".") == c for word in text.split()) for c in colours] for text in texts]
        return functional.normalize(torch.tensor(counts).float(), dim=1)


def test_by_hand():
    found = monotonicity([torch.tensor(v) for v in ([0.1, 0.2, 0.3], [0.3, 0.2], [0.2, 0.2, 0.2], [0.1, 0.3, 0.2])])
    assert found.correlation.tolist() == pytest.approx([1, -1, 0, 0.5])
    assert found.rising.tolist() == [1, 0, 0, 0.5]
    assert found.monotone.tolist() == [1, 0, 0, 0]
    with pytest.raises(ValueError, match="at least 2 texts, got 1"):
        monotonicity([torch.tensor([0.1])])


def test_scipy_agrees():
    generator = torch.Generator().manual_seed(0)
    cosines = [torch.randn(2 + n % 7, generator=generator, dtype=torch.float64) for n in range(50)]
    expected = [pearsonr(range(len(values)), values).statistic for values in cosines]
    assert monotonicity(cosines).correlation.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_paper_s_file(tmp_path):
    rows = [
        {"img_path": "a.png", "caption": ["blue red", "blue red red", "blue red red red"]},
        {"img_path": "b.png", "caption": ["green", "green red"]},
        {"img_path": "c.png", "caption": ["blue"]},
    ]
    for row, colour in zip(rows, ("red", "green", "blue"), strict=True):
        paint(tmp_path / "docci" / "images" / row["img_path"], (16, 16), (colour, (0, 0, 16, 16)))
    (tmp_path / "himo_docci").mkdir()
    (tmp_path / "himo_docci" / "himo_docci_data.json").write_text("\n".join(map(json.dumps, rows)))
    result = benchmark("himo_docci")(Share(), EvalContext(tmp_path))
    cosines = torch.tensor([1 / 2**0.5, 2 / 5**0.5, 3 / 10**0.5])
    risen = pearsonr([1, 2, 3], cosines).statistic
    numbers = {name.removeprefix("himo_docci/"): value for name, value in result.numbers.items()}
    assert numbers["all/correlation"] == pytest.approx((risen - 1) / 2, abs=1e-6)
    assert (numbers["all/rising"], numbers["all/monotone"], numbers["all/images"]) == (0.5, 0.5, 2)
    assert (numbers["at_2/correlation"], numbers["at_2/images"]) == (pytest.approx(0, abs=1e-12), 2)
    assert (numbers["at_3/correlation"], numbers["at_3/images"]) == (pytest.approx(risen, abs=1e-6), 1)
    assert "at_4/correlation" not in numbers
    # by the median, three texts: only the first image has as many, and always finds itself
    assert numbers["text_1_of_3/text_to_image/R@1"] == numbers["text_3_of_3/image_to_text/R@1"] == 1
    assert result.counts == {"caption of one sentence": 1}
    assert result.items["himo_docci/all"].columns["image"] == ["a.png", "b.png"]


@pytest.mark.usefixtures("nltk_data")
def test_retrieval_as_captions_grow(tmp_path):
    """With their first sentence two captions are one; the second tells them apart."""
    file = tmp_path / "long.jsonl"
    captions = ["It is red. It is red red.", "It is red. It is green green."]
    for name, colour in (("a.png", "red"), ("b.png", "green")):
        paint(tmp_path / name, (16, 16), (colour, (0, 0, 16, 16)))
    rows = [{"image": f"{n}.png", "caption": c} for n, c in zip("ab", captions, strict=True)]
    file.write_text("\n".join(map(json.dumps, rows)))
    numbers = benchmark(f"himo:{file}")(Share(), EvalContext(tmp_path)).numbers
    grown = [numbers[f"himo:long/text_{k}_of_2/text_to_image/R@1"] for k in (1, 2)]
    assert grown == [0.5, 1.0]


@pytest.mark.usefixtures("nltk_data")
def test_several_captions_of_an_image(tmp_path):
    """The image stands in the gallery once, and any of its texts is right; the other image is found by none of its."""
    file = tmp_path / "long.jsonl"
    captions = {
        "red": ["It is red. It is red red.", "A red red green one. A red red one.", "One sentence."],
        "green": ["It is blue red. It is blue blue.", "One sentence."],
    }
    for colour in captions:
        paint(tmp_path / f"{colour}.png", (16, 16), (colour, (0, 0, 16, 16)))
    rows = [{"image": f"{colour}.png", "caption": text} for colour, texts in captions.items() for text in texts]
    file.write_text("\n".join(map(json.dumps, rows)))
    watched, seen = Share(), []
    encode = watched.encode_image
    watched.encode_image = lambda squares: (seen.append(len(squares)), encode(squares))[1]
    result = benchmark(f"himo:{file}")(watched, EvalContext(tmp_path))
    numbers = {name.removeprefix("himo:long/"): value for name, value in result.numbers.items()}
    assert seen == [2]
    assert (result.settings["images"], result.settings["texts"], numbers["all/images"]) == (2, 6, 2)
    assert result.counts == {"caption of one sentence": 2}
    assert numbers["all/correlation"] == pytest.approx(1 / 3)  # of three captions, one of which rises
    assert numbers["text_1_of_2/image_to_text/R@1"] == numbers["text_2_of_2/image_to_text/R@1"] == 0.5
    assert numbers["text_1_of_2/text_to_image/R@1"] == pytest.approx(2 / 3)
    assert numbers["text_1_of_2/image_to_text/images"] == numbers["text_1_of_2/text_to_image/images"] == 2
    tables = {name.removeprefix("himo:long/"): items.columns for name, items in result.items.items()}
    assert tables["all"]["image"] == ["red.png", "red.png", "green.png"]
    assert tables["text_1_of_2/text_to_image"] == {"image": tables["all"]["image"], "R@1": [True, True, False]}
    assert tables["text_1_of_2/image_to_text"] == {"image": ["red.png", "green.png"], "R@1": [True, False]}


def test_shards_have_their_sentences(tmp_path):
    caption = "A red thing. A red red thing. Blue"
    samples = [
        make_sample(0, caption=caption, sentences=("A red thing.", "A red red thing."), phrases=(), regions=()),
        make_sample(1, caption="A red thing.", sentences=("A red thing.",), phrases=(), regions=()),
    ]
    write_tar(tmp_path / "x-000.tar", samples)
    watched = Share()
    seen: list[str] = []
    encode = watched.encode_text
    watched.encode_text = lambda texts: (seen.extend(texts), encode(texts))[1]
    result = benchmark("himo:x-000.tar")(watched, EvalContext(tmp_path))
    assert seen == ["A red thing.", "A red thing. A red red thing."]
    assert result.counts == {"caption of one sentence": 1}
    assert "himo:x-000/at_2/correlation" in result.numbers
    retrieval = benchmark("shards:x-000.tar")(Share(), EvalContext(tmp_path))
    assert retrieval.settings["texts"] == 2


def test_prefixes():
    assert prefixes("One. Two!  One. 3", ["One.", "Two!", "One."]) == ["One.", "One. Two!", "One. Two!  One."]
    with pytest.raises(ValueError, match="pieces of their caption, in order, got 'Two'"):
        prefixes("One. Two", ["Two", "Two"])


def test_what_is_refused(tmp_path):
    write_tar(tmp_path / "one.tar", [make_sample(0, sentences=(), phrases=(), regions=())])
    with pytest.raises(ValueError, match="himo:one needs a caption with at least 2 texts that grow"):
        benchmark("himo:one.tar")(Share(), EvalContext(tmp_path))
    (tmp_path / "himo_docci_data.json").write_text('{"img_path": "a.png", "caption": "one"}')
    with pytest.raises(ValueError, match=r"'records\[0\]\.caption' must be a list of texts, got 'one'"):
        benchmark("himo_docci")(Share(), EvalContext(tmp_path))
