"""Zero-shot classification from released folders, CIFAR's files and WebDataset tars."""

import pickle

import numpy as np
import pytest
import torch

from eval.benchmarks.cifar import cifar10, cifar10_own, cifar100, cifar100_own
from eval.benchmarks.image_folder import ImageFolder
from eval.benchmarks.imagenet import imagenet, imagenet_a, imagenet_r, imagenet_v2
from eval.benchmarks.webdataset import WebDataset
from eval.data.sources import ImagePixels
from eval.interfaces import EvalContext
from eval.protocols.prompts import CIFAR_TEMPLATES, imagenet_classes, imagenet_templates, read_templates
from eval.protocols.zero_shot_classification import LabelledImages, classify_images
from tests.eval import releases
from tests.eval.official import ColourModel

WNIDS = [f"n{100 + n:08d}" for n in range(1000)]


class Namer(ColourModel):
    """A class is a point on a sphere by its place in OpenAI's list; an image's red and green say which."""

    def encode_text(self, texts):
        self.texts += texts
        indices = []
        for text in texts:
            name = text.removeprefix("a bad photo of a ").removesuffix(".")
            indices.append(imagenet_classes().index(name))
        return torch.stack([vector(index) for index in indices])

    def encode_image(self, squares):
        mean = squares.float().mean((2, 3)).round()
        result = super().encode_image(squares)
        result.image = torch.stack([vector(int(red) * 4 + int(green)) for red, green, _ in mean])
        return result


def vector(index):
    return torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(index)), dim=0)


@pytest.fixture
def one_template(monkeypatch):
    monkeypatch.setattr("eval.benchmarks.imagenet.imagenet_templates", lambda: ("a bad photo of a {}.",))


def write_image(file, index):
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (index // 4, index % 4, 0)).save(file.with_suffix(".png"))


def test_openai_s_names_hold_two_pairs_of_twins():
    names = imagenet_classes()
    assert len(names) == 1000
    assert len(set(names)) == 998
    assert names[657] == names[744] == "missile"
    assert names[836] == names[837] == "sunglasses"
    assert names[0] == "tench"


def test_imagenet_s_labels_are_ranks_of_wnids_and_twins_take_the_first(tmp_path, one_template):
    for wnid in WNIDS:
        (tmp_path / "imagenet" / "val" / wnid).mkdir(parents=True)
    for index in range(1000):
        right = index if index != 5 else 6
        write_image(tmp_path / "imagenet" / "val" / WNIDS[index] / "ILSVRC2012_val_00000001", right)
    result = imagenet(Namer(), EvalContext(tmp_path, batch_size=500))
    hits = result.items["imagenet"].columns["top1"]
    missed = [index for index, hit in enumerate(hits) if not hit]
    # the second of two equal classes is never chosen; an image of the second shows the second's own vector
    assert 5 in missed
    assert result.numbers["imagenet/images"] == 1000
    # vectors of 744 and 837 are those of their names' first places
    assert result.items["imagenet"].columns["tied"][657]
    assert result.items["imagenet"].columns["top1"][657]
    assert not result.items["imagenet"].columns["top1"][744]
    assert result.numbers["imagenet/top5"] >= result.numbers["imagenet/top1"] > 0.98
    assert (result.settings["classes"], result.settings["classes present"]) == (1000, 1000)


def test_the_second_of_equal_classes_misses(tmp_path):
    images = [ImagePixels(str(n), np.full((4, 4, 3), (255, 0, 0), np.uint8)) for n in range(2)]
    data = LabelledImages(images, [0, 2], ["red", "blue", "red"])
    result = classify_images("twins", ColourModel(), EvalContext(tmp_path), data, ("{}",), "")
    assert result.items["twins"].columns["top1"] == [True, False]
    assert result.items["twins"].columns["rank"] == [0, 1]
    assert result.numbers["twins/ties"] == 1.0
    assert result.numbers["twins/class_mean_top1"] == 0.5


def test_imagenet_v2_s_labels_are_its_folders_numbers(tmp_path, one_template):
    folder = tmp_path / "imagenetv2-matched-frequency-format-val"
    for index in (0, 1, 2, 10, 100, 999):
        write_image(folder / str(index) / "a", index)
    result = imagenet_v2(Namer(), EvalContext(tmp_path))
    assert result.numbers["imagenet_v2/top1"] == 1.0
    assert result.items["imagenet_v2"].columns["class"][3] == imagenet_classes()[100]
    (folder / "tench").mkdir()
    with pytest.raises(ValueError, match="must hold folders 0 to 999, got tench"):
        imagenet_v2(Namer(), EvalContext(tmp_path))


def test_imagenet_a_s_classes_are_its_folders(tmp_path, one_template):
    (tmp_path / "imagenet_wnids.txt").write_text("\n".join(WNIDS))
    for index in (3, 40, 500):
        write_image(tmp_path / "imagenet-a" / WNIDS[index] / "x", index)
    result = imagenet_a(Namer(), EvalContext(tmp_path))
    assert (result.numbers["imagenet_a/top1"], result.settings["classes"]) == (1.0, 3)
    (tmp_path / "imagenet-a" / "n99999999").mkdir()
    with pytest.raises(ValueError, match="must hold folders of ImageNet-1k's wnids, got n99999999"):
        imagenet_a(Namer(), EvalContext(tmp_path))
    (tmp_path / "imagenet_wnids.txt").write_text("n00000001")
    with pytest.raises(ValueError, match="must hold 1000 wnids in the order of their names, got 1"):
        imagenet_a(Namer(), EvalContext(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no imagenet-r; --root must be the folder above"):
        imagenet_r(Namer(), EvalContext(tmp_path))
    write_image(tmp_path / "imagenet" / "val" / WNIDS[0] / "x", 0)
    with pytest.raises(ValueError, match="val must hold 1000 folders, got 1"):
        imagenet(Namer(), EvalContext(tmp_path))


def test_cifar_s_own_files(tmp_path):
    releases.write_cifar(tmp_path)
    model = ColourModel()
    result = cifar10(model, EvalContext(tmp_path))
    assert (result.numbers["cifar10/top1"], result.numbers["cifar10/images"]) == (1.0, 6)
    assert result.settings["prompts per class"] == 80
    assert set(result.settings["files"]) == {"test_batch", "batches.meta"}
    model = ColourModel()
    assert cifar100(model, EvalContext(tmp_path)).numbers["cifar100/class_mean_top1"] == 1.0
    assert "a bad photo of a red_fish." in model.texts
    model = ColourModel()
    assert cifar100_own(model, EvalContext(tmp_path)).settings["prompts per class"] == 18
    assert "a low contrast photo of the red fish." in model.texts
    assert cifar10_own(model, EvalContext(tmp_path)).numbers["cifar10_own/top1"] == 1.0


def test_cifar_s_pickles_run_nothing(tmp_path):
    tens, _ = releases.write_cifar(tmp_path)

    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    (tens / "test_batch").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(ValueError, match=r"test_batch is no pickle of plain data: it names builtins.print"):
        cifar10(ColourModel(), EvalContext(tmp_path))
    (tens / "test_batch").write_bytes(pickle.dumps({"data": np.zeros((2, 3), np.uint8), "labels": [0, 1]}, protocol=2))
    with pytest.raises(ValueError, match=r"test_batch: 'data' must be 2 rows of 3072 bytes, got \(2, 3\)"):
        cifar10(ColourModel(), EvalContext(tmp_path))
    (tens / "test_batch").write_bytes(pickle.dumps({"labels": []}))
    with pytest.raises(ValueError, match="test_batch must hold 'data', got labels"):
        cifar10(ColourModel(), EvalContext(tmp_path))


def test_openai_s_templates():
    assert len(CIFAR_TEMPLATES) == len(set(CIFAR_TEMPLATES)) == 18
    assert "a photo of a small {}." in CIFAR_TEMPLATES
    assert len(imagenet_templates()) == 80


def test_any_folder(tmp_path):
    for colour in releases.NAMES:
        releases.plain(tmp_path / "mine" / f"{colour}_things" / "a.jpg", colour)
    model = ColourModel()
    result = ImageFolder("mine")(model, EvalContext(tmp_path))
    assert result.numbers["folder:mine/top1"] == 1.0
    assert "a bad photo of a red things." in model.texts
    (tmp_path / "mine" / "templates.txt").write_text("one {c}\n")
    (tmp_path / "mine" / "classnames.txt").write_text("blue\ngreen\nblue\n")
    model = ColourModel()
    result = ImageFolder("mine")(model, EvalContext(tmp_path))
    assert model.texts == ["one blue", "one green", "one blue"]
    assert result.numbers["folder:mine/top1"] == pytest.approx(2 / 3)  # blue, green and red, which is now called blue
    (tmp_path / "mine" / "classnames.txt").write_text("blue\n")
    with pytest.raises(ValueError, match=r"classnames.txt must hold 3 names, one a folder, got 1"):
        ImageFolder("mine")(model, EvalContext(tmp_path))
    (tmp_path / "mine" / "red_things" / "notes.txt").write_text("")
    (tmp_path / "mine" / "classnames.txt").unlink()
    with pytest.raises(ValueError, match=r"red_things must hold images \(.*\), got notes.txt"):
        ImageFolder("mine")(model, EvalContext(tmp_path))


def test_wds_classification_round_trip(tmp_path):
    shards = [[("red", "0"), ("blue", "2")], [("green", "1"), ("red", "2")]]
    folder = releases.write_wds(tmp_path / "wds", "classification", shards)
    model = ColourModel()
    result = WebDataset("wds")(model, EvalContext(tmp_path))
    assert result.numbers["wds:wds/top1"] == 0.75
    assert model.texts[:2] == ["a photo of red.", "my red"]
    assert result.items["wds:wds"].columns["image"] == ["0/s0000000", "0/s0000001", "1/s0000000", "1/s0000001"]
    (folder / "test" / "nshards.txt").write_text("3")
    with pytest.raises(FileNotFoundError, match=r"the shard .*2\.tar does not exist"):
        WebDataset("wds")(model, EvalContext(tmp_path))
    for count in ("0", "two"):
        (folder / "test" / "nshards.txt").write_text(count)
        with pytest.raises(ValueError, match=rf"nshards\.txt must be the number of shards, got '{count}'"):
            WebDataset("wds")(model, EvalContext(tmp_path))
    (folder / "test" / "nshards.txt").write_text("2")
    (folder / "test" / "1.tar").write_bytes((folder / "test" / "1.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"1\.tar is cut short or no tar|every sample must have an image"):
        WebDataset("wds")(model, EvalContext(tmp_path))
    (folder / "zeroshot_classification_templates.txt").write_text("no place")
    with pytest.raises(ValueError, match=r"a prompt must hold \{c\} once, the place of the name, got 'no place'"):
        read_templates(folder / "zeroshot_classification_templates.txt")


def test_wds_retrieval_has_a_caption_a_line(tmp_path):
    releases.write_wds(tmp_path / "r", "retrieval", [[("red", "red one\nred two"), ("blue", "blue one\n")]])
    result = WebDataset("r")(ColourModel(), EvalContext(tmp_path))
    assert (result.settings["texts"], result.numbers["wds:r/image_to_text/R@1"]) == (3, 1.0)
    (tmp_path / "r" / "dataset_type.txt").write_text("multilabel")
    with pytest.raises(ValueError, match="must be one of classification, retrieval, got 'multilabel'"):
        WebDataset("r")(ColourModel(), EvalContext(tmp_path))


def test_labels_outside_the_classes_are_refused(tmp_path):
    releases.write_wds(tmp_path / "w", "classification", [[("red", "3")]])
    with pytest.raises(ValueError, match=r"wds:w: labels must lie in \[0, 3\), got 3"):
        WebDataset("w")(ColourModel(), EvalContext(tmp_path))
