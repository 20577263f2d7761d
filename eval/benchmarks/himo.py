"""HiMo@K: do scores rise as captions grow? (HiMo-CLIP, AAAI 2026, arXiv 2511.06653.) The numbers are those of
``eval.protocols.monotonicity``.

====================  =================================================================================================
``himo_docci``        the paper's texts: ``himo_docci/himo_docci_data.json`` as its repository releases it (JSON Lines:
                      ``img_path``, ``caption``, a list of growing texts), images in ``docci/images``. Its code's number
                      is ``all/correlation``
``himo:PATH``         any long captions: a table as ``retrieval:FILE`` reads it, or shards. Our definition: the texts of
                      a caption are its first sentence, its first two, and so on, each as it stands. Shards have their
                      sentences; a table's captions are cut by NLTK's Punkt, and each of an image's captions counts
====================  =================================================================================================

Captions of one sentence are left out and counted. A text that the model cuts scores as the one before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from datamodules.formats.layout import PATH, Rule, checked
from datamodules.formats.row_readers import TABLES, json_lines
from datamodules.granularity.cutting import split_sentences
from eval.benchmarks.retrieval_file import read_table
from eval.benchmarks.shards import checksums, read_shards, short_name
from eval.data.find_file import find_path, first_file
from eval.data.records import file_sha256
from eval.data.sources import ImageSource
from eval.interfaces import EvalContext, Model, PathBenchmark, Result
from eval.protocols.image_text_retrieval import gather_files
from eval.protocols.monotonicity import FEWEST, GrowingTexts, measure_monotonicity

GROWING = Rule(
    "a list of texts",
    lambda v: isinstance(v, list) and all(isinstance(text, str) and bool(text.strip()) for text in v),
)


def himo_docci(model: Model, run: EvalContext) -> Result:
    """The paper's texts of DOCCI's test split."""
    path = find_path(run.root, *(f"{folder}himo_docci_data.json" for folder in ("himo_docci/", "docci/", "")))
    rows = list(checked(path, "records", json_lines(path), {"img_path": PATH, "caption": GROWING}))
    bases = dict.fromkeys((run.root / "docci" / "images", path.parent / "images", run.root / "images"))
    entries = [
        (first_file([base / row["img_path"] for base in bases]), row["img_path"], row["caption"]) for row in rows
    ]
    data = gather_files(entries, path, {path.name: file_sha256(path)}, run)
    texts = _grown(data.images, [[texts] for texts in data.captions], data.files, data.counts)
    return measure_monotonicity("himo_docci", model, run, texts, "HiMo-Docci's growing texts, all of an image")


class HimoPath(PathBenchmark):
    """The benchmark of one table or set of shards."""

    kind = "himo"

    @property
    @override
    def head(self) -> str:
        """With the path's last part without its ending."""
        return f"{self.kind}:{short_name(self.path)}"

    def __call__(self, model: Model, run: EvalContext) -> Result:
        """The texts of each caption by sentences."""
        if Path(self.path).suffix.lower() in TABLES:
            table = read_table(run, self.path)
            images, files, counts = table.images, table.files, table.counts
            growing = [[prefixes(text, split_sentences(text)) for text in texts] for texts in table.captions]
        else:
            members, samples = read_shards(run, self.path)
            images, files, counts = list(members), checksums(members, samples), Counter()
            growing = [[prefixes(sample.caption, sample.sentences)] for sample in samples]
        data = _grown(images, growing, files, counts)
        protocol = "a caption's first sentence, its first two, ... (ours)"
        return measure_monotonicity(self.head, model, run, data, protocol)


def prefixes(caption: str, sentences: Sequence[str]) -> list[str]:
    """The caption up to the end of each of its sentences, which are pieces of it in order. Raises ValueError where one
    is not.
    """
    found: list[str] = []
    end = 0
    for sentence in sentences:
        start = caption.find(sentence, end)
        if start < 0:
            raise ValueError(f"sentences must be pieces of their caption, in order, got {sentence!r:.80}")
        end = start + len(sentence)
        found.append(caption[:end].strip())
    return found


def _grown(
    images: Sequence[ImageSource], captions: Sequence[list[list[str]]], files: dict[str, str], counts: Counter[str]
) -> GrowingTexts:
    """Images, and the captions of each that have at least two texts; the others are counted."""
    kept = [[texts for texts in group if len(texts) >= FEWEST] for group in captions]
    counts = Counter(counts)
    counts["caption of one sentence"] += sum(map(len, captions)) - sum(map(len, kept))
    pairs = [(image, group) for image, group in zip(images, kept, strict=True) if group]
    owner = [number for number, (_, group) in enumerate(pairs) for _ in group]
    texts = [texts for _, group in pairs for texts in group]
    return GrowingTexts([image for image, _ in pairs], texts, owner, files, dict(+counts))
