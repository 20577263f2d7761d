"""Class vectors against their definition, and the two published sets of prompts."""

import pytest
import torch
from torch.nn import functional

from eval.protocols import prompts
from eval.protocols.prompts import VILD_TEMPLATES, class_vectors, imagenet_templates, vild_name


def embed(texts):
    """A random vector for each text, of any norm."""
    return torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(hash(t) % 2**32)) for t in texts])


@pytest.mark.parametrize("together", [1, 4, 1000])
def test_class_vectors_are_means_of_unit_embeddings(monkeypatch, together):
    monkeypatch.setattr(prompts, "TEXTS", together)
    names, templates = ["apple", "cat", "dog", "umbrella"], ["{article} {}.", "the {}.", "one {}"]
    vectors = class_vectors(embed, names, templates)
    for name, vector in zip(names, vectors, strict=True):
        article = {"apple": "an", "umbrella": "an"}.get(name, "a")
        rows = [embed([text])[0].double() for text in (f"{article} {name}.", f"the {name}.", f"one {name}")]
        mean = sum(row / row.norm() for row in rows) / 3
        torch.testing.assert_close(vector.double(), mean / mean.norm(), atol=1e-6, rtol=0)


def test_progress_is_told():
    calls = []
    class_vectors(embed, ["a", "b"], ["{}"], lambda steps, what: calls.append((what, len(steps))) or steps)
    assert calls == [("class vectors", 1)]


def test_openai_templates_are_those_of_open_clip():
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    templates = imagenet_templates()
    assert len(templates) == 80
    assert templates[0] == "a bad photo of a {}."
    assert [t.format("{odd} cat") for t in templates] == [t("{odd} cat") for t in OPENAI_IMAGENET_TEMPLATES]


def test_vild_templates():
    assert len(set(VILD_TEMPLATES)) == len(VILD_TEMPLATES) == 63
    starts = {
        text: sum(t.startswith(text) for t in VILD_TEMPLATES) for text in ("This is a", "This is the", "There is")
    }
    assert starts == {"This is a": 53, "This is the": 5, "There is": 2}
    assert {t for t in VILD_TEMPLATES if not t.startswith(("This is ", "There is "))} == {
        "itap of {article} {}.", "itap of my {}.", "itap of the {}."
    }  # fmt: skip
    for text in ("There is {article} {} in the scene.", "This is a photo of the hard to see {}.", "This is a toy {}.",
                 "This is a black and white photo of {article} {}.", "This is an embroidered {}."):  # fmt: skip
        assert text in VILD_TEMPLATES
    assert prompts.prompts("oven", ["This is a photo of {article} {}."]) == ["This is a photo of an oven."]


def test_vild_names():
    assert vild_name("Bow_(weapon)") == "bow (weapon)"
    assert vild_name("Monitor/TV") == "monitor or tv"
    assert vild_name("dining table-merged.") == "dining table-merged"


def test_wrong_input_is_named():
    for names, templates, message in (
        ([], ["{}"], "names must not be empty"),
        (["cat"], [], "templates must not be empty"),
        (["cat", " "], ["{}"], "a class's name must not be empty"),
        (["cat"], ["a photo"], "must hold {}, the place of the name, got 'a photo'"),
    ):
        with pytest.raises(ValueError, match=message):
            class_vectors(embed, names, templates)


def test_vectors_do_not_depend_on_the_norm_of_embeddings():
    names, templates = ["cat", "dog"], ["a {}", "the {}"]
    plain = class_vectors(lambda t: functional.normalize(embed(t), dim=1), names, templates)
    torch.testing.assert_close(class_vectors(embed, names, templates), plain)
