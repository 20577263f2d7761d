"""The released layouts of data sets of images and captions, a few images each, for the model that sees colours."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.eval.official import COLOURS, paint, write_json

NAMES = tuple(COLOURS)


def plain(file: Path, colour: str, size: tuple[int, int] = (24, 20)) -> None:
    """An image of one colour."""
    paint(file, size, (colour, (0, 0, *size)))


def write_lines(file: Path, rows: list[dict]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_urban1k(root: Path) -> Path:
    """Three pairs; the third caption's first line is blank; what a Mac adds lies beside."""
    folder = root / "Urban1k"
    for number, colour in enumerate(NAMES, 1):
        plain(folder / "image" / f"{number}.jpg", colour)
        blank = "\n" if number == 3 else ""
        text = f"{blank}A {colour} street.\nA second line that is blue.\n"
        (folder / "caption").mkdir(exist_ok=True)
        (folder / "caption" / f"{number}.txt").write_text(text)
    for name in ("caption/.DS_Store", "image/.DS_Store", "caption/._1.txt", "image/._1.jpg"):
        (folder / name).write_bytes(b"\0")
    return folder


def write_sharegpt4v(root: Path, count: int) -> Path:
    """So many pairs, and one more that is not read. There are three images, by many names."""
    rows = []
    (root / "sam" / "images").mkdir(parents=True)
    for number in range(count + 1):
        colour = NAMES[number % 3]
        image = f"sam/images/sa_{number}.jpg"
        value = f"A {colour} wall,\nnumber {number % 300}."  # equal texts are embedded once
        turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": value}]
        rows.append({"id": f"sa_{number}", "image": image, "conversations": turns})
        if number < min(count, 3):
            plain(root / image, colour, (17, 17))
        elif number < count:
            (root / image).hardlink_to(root / f"sam/images/sa_{number % 3}.jpg")
    file = root / "share-captioner_coco_lcs_sam_1246k_1107.json"
    file.write_text(json.dumps(rows)[:-20])  # the end is not needed
    return file


def write_docci(root: Path) -> Path:
    """Three of test, one of qual_test, one of train."""
    rows = []
    for number, (split, colour) in enumerate(
        [("train", "red"), ("test", "red"), ("test", "green"), ("qual_test", "blue"), ("test", "blue")]
    ):
        image = f"{split}_{number:05d}.jpg"
        plain(root / "docci" / "images" / image, colour)
        rows.append(
            {"example_id": image[:-4], "split": split, "image_file": image, "description": f"A {colour} thing."}
        )
    return write_lines(root / "docci" / "docci_descriptions.jsonlines", rows)


def write_himo_docci(root: Path) -> Path:
    """Growing texts of two of DOCCI's test images, in JSON Lines, whatever the ending says."""
    rows = [
        {"img_path": f"test_{number:05d}.jpg", "caption": [f"A {colour} thing.", f"A {colour} thing. It is {colour}."]}
        for number, colour in ((1, "red"), (2, "green"))
    ]
    return write_lines(root / "himo_docci" / "himo_docci_data.json", rows)


def write_dci(root: Path) -> Path:
    """Four images in three splits, one of them without an extra caption."""
    folder = root / "densely_captioned_images"
    splits: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for number, (split, colour) in enumerate(
        [("test", "red"), ("train", "green"), ("valid", "blue"), ("train", "red")]
    ):
        image, name = f"sa_{number}.jpg", f"{90 - number}-data.json"
        plain(folder / "photos" / image, colour)
        extra = "" if number == 3 else f"All of it is {colour}. It is 3.5 m high."
        document = {"image": image, "short_caption": f"A {colour} thing", "extra_caption": extra, "mask_data": {}}
        write_json(folder / "annotations" / name, document)
        splits[split].append(name)
    write_json(folder / "splits.json", splits)
    return folder


def write_iiw(root: Path) -> Path:
    """One image of each part; DOCCI's has no extension and is there under its other name."""
    folder = root / "imageinwords"
    write_lines(folder / "datasets/DOCCI_Test/data.jsonl", [{"IIW": "All red.", "image": "test_00731"}])
    write_lines(folder / "datasets/IIW-400/data.jsonl", [{"IIW": "All green.", "image/key": "aar_test_04600"}])
    write_lines(folder / "datasets/DCI_Test/data.jsonl", [{"IIW": "All blue.", "image": "sa_1.jpg"}])
    for file, colour in (("docci/train_00731", "red"), ("docci_aar/aar_test_04600", "green"), ("dci/sa_1", "blue")):
        plain(folder / f"{file}.jpg", colour)
    return folder


def karpathy(colour: str, number: int, captions: int, split: str = "test", folder: str | None = "val2014") -> dict:
    filename = f"COCO_val2014_{number:012d}.jpg"
    sentences = [{"raw": f"{colour} thing {n} of {number}", "tokens": [], "sentid": n} for n in range(captions)]
    record = {"filename": filename, "split": split, "sentences": sentences, "imgid": number}
    return record if folder is None else record | {"filepath": folder}


def write_karpathy(root: Path, count: int = 3) -> Path:
    """Test images with five captions, the second with six, and one of train."""
    colours = [NAMES[n % 3] for n in range(count)]
    images = [karpathy(c, n, 6 if n == 1 else 5) for n, c in enumerate(colours)]
    for image, colour in zip(images, colours, strict=True):
        plain(root / "val2014" / image["filename"], colour)
    images.append(karpathy("red", 99, 5, "train"))
    file = root / "dataset_coco.json"
    write_json(file, {"images": images, "dataset": "coco"})
    return file


def write_val2017(root: Path) -> Path:
    """Three images, not in the order of their ids, with 5, 6 and 7 captions; two share one word for word."""
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "license": 1} for n in (30, 10, 20)]
    annotations, number = [], 0
    for image, (colour, count) in zip(images, zip(NAMES, (5, 6, 7), strict=True), strict=True):
        plain(root / "val2017" / image["file_name"], colour)
        for n in range(count):
            caption = "red and something" if n == 2 and colour != "green" else f" {colour} {n}\n"
            annotations.append({"id": 500 - number, "image_id": image["id"], "caption": caption})
            number += 1
    file = root / "annotations" / "captions_val2017.json"
    write_json(file, {"info": {}, "images": images, "annotations": annotations})
    return file


def write_flickr(root: Path) -> Path:
    """Karpathy's splits and the token file of the same four images; a caption with a comma and quotes."""
    images, lines = [], []
    for number, (colour, split) in enumerate(zip((*NAMES, "red"), ("test", "test", "val", "train"), strict=True)):
        record = karpathy(colour, number, 5, split, None) | {"filename": f"{number}.jpg"}
        record["sentences"][1]["raw"] = f'A "{colour}" thing, seen from above'
        images.append(record)
        lines += [f"{number}.jpg#{n}\t{s['raw']}\n" for n, s in enumerate(record["sentences"])]
        plain(root / "flickr30k-images" / f"{number}.jpg", colour)
    write_json(root / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    file = root / "results_20130124.token"
    file.write_text("".join(lines))
    return file


def write_flickr8k(root: Path) -> Path:
    """Two test images, two of dev and one of train, in windows' lines; five captions of an image that no list names."""
    folder, lines = root / "flickr8k", []
    splits = {"test": ("red", "blue"), "dev": ("green", "red"), "train": ("blue",)}
    for split, colours in splits.items():
        names = [f"{split}_{number}.jpg" for number in range(len(colours))]
        for name, colour in zip(names, colours, strict=True):
            plain(folder / "Flicker8k_Dataset" / name, colour)
            lines += [f"{name}#{n}\tA {colour} thing , {n} of five{' .' if n else ''}\r\n" for n in range(5)]
        (folder / f"Flickr_8k.{split}Images.txt").write_bytes("\r\n".join(names).encode())
    lines += [f"2258277193_586949ec62.jpg.1#{n}\tA dog .\r\n" for n in range(5)]
    file = folder / "Flickr8k.token.txt"
    file.write_bytes("".join(lines).encode())
    return file


def write_csv(file: Path, rows: list[dict], delimiter: str = ",") -> Path:
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_cifar(root: Path) -> tuple[Path, Path]:
    """Six and three images, a colour each, in Python 2's pickles."""
    tens, hundreds = root / "cifar-10-batches-py", root / "cifar-100-python"
    for folder, test, meta, field, names_field, classes in (
        (tens, "test_batch", "batches.meta", b"labels", b"label_names", NAMES),
        (hundreds, "test", "meta", b"fine_labels", b"fine_label_names", ("red_fish", "blue_sea", "green")),
    ):
        folder.mkdir()
        order = [0, 1, 2, 1, 0, 0]
        rows = [next(COLOURS[c] for c in NAMES if c in classes[i]) for i in order]
        data = np.repeat(np.array(rows, np.uint8), 1024, axis=1)
        (folder / test).write_bytes(pickle.dumps({b"data": data, field: order, b"batch_label": b"x"}, protocol=2))
        (folder / meta).write_bytes(pickle.dumps({names_field: [c.encode() for c in classes]}, protocol=2))
    return tens, hundreds


def write_wds(folder: Path, kind: str, samples: list[list[tuple[str, str]]]) -> Path:
    """Shards of (colour, class number or captions) in CLIP_benchmark's layout."""
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text(f"{len(samples)}\n")
    if kind != "classification":
        (folder / "dataset_type.txt").write_text(kind)
    (folder / "classnames.txt").write_text("red\ngreen\nblue\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\nmy {c}\n")
    for number, shard in enumerate(samples):
        with tarfile.open(folder / "test" / f"{number}.tar", "w") as tar:
            for index, (colour, text) in enumerate(shard):
                buffer = io.BytesIO()
                Image.new("RGB", (9, 7), COLOURS[colour]).save(buffer, "PNG")
                member = "cls" if kind == "classification" else "txt"
                for end, data in (("png", buffer.getvalue()), (member, text.encode())):
                    info = tarfile.TarInfo(f"s{index:07d}.{end}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder
