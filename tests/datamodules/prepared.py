"""Shards that a reader wrote, read back: what the tests of all readers need."""

from __future__ import annotations

import tarfile
from pathlib import Path

from datamodules.sample import Sample


def read(folder: Path) -> dict[str, Sample]:
    """All samples of the shards of ``folder`` by key, checked; every phrase stands where it says, in its sentence."""
    groups: dict[str, dict] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                groups.setdefault(key, {"__key__": key})[extension] = tar.extractfile(member).read()
    samples = {key: Sample.from_members(group) for key, group in groups.items()}
    for sample in samples.values():
        for phrase in sample.phrases:
            assert sample.caption[phrase.start : phrase.end] == phrase.text == phrase.text.strip()
            assert phrase.text in sample.sentences[phrase.sentence]
    return samples


def linked(sample: Sample) -> list[tuple[str | None, str | None, tuple[float, ...]]]:
    """The text of its phrase, label and box of each region."""
    return [(None if r.phrase is None else sample.phrases[r.phrase].text, r.label, r.box) for r in sample.regions]
