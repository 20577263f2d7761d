"""``GranularityData``: the DataModule. It reads shards and gives batches with texts at every grain."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from typing_extensions import override

from datamodules import scenes
from datamodules.batch import Batch
from datamodules.batching.collate import SamplePreprocessor
from datamodules.batching.host_copies import keep_host_copies
from datamodules.batching.image_transforms import ImageTransform, RandomCrop, Squash
from datamodules.batching.input_format import InputFormat
from datamodules.batching.region_sampling import RegionSampling
from datamodules.batching.text_sampling import GrainSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.bounds import at_least
from datamodules.prepare.pairs import PairReading, PairSource, check_pairs
from datamodules.reading.bad_samples import SkipPolicy
from datamodules.reading.global_batch import GlobalBatch, warn_changed_batch
from datamodules.reading.loader import EpochLoader, PassLoader, default_workers
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.reading.remote_shards import StreamBatches
from datamodules.reading.resume import ResumeState, fit_epoch
from datamodules.reading.select_reader import single_pass, training_batches
from datamodules.reading.text_notes import FirstSamples, first_samples
from datamodules.shards.discovery import Shard, ShardError, find_shards
from datamodules.shards.download import FetchPolicy

logger = logging.getLogger("grainclip")


@dataclass(frozen=True)
class SceneSet:
    """The embedded data: numbers of scenes to train, validate and test with, their seed, the image side in pixels."""

    train: int = 7040
    dev: int = 512
    held_out: int = 2048
    seed: int = 0
    size: int = 64

    def __post_init__(self) -> None:
        at_least("data.scenes", 1, train=self.train, dev=self.dev, held_out=self.held_out)
        at_least("data.scenes", 0, seed=self.seed)
        at_least("data.scenes", 32, size=self.size)


class GranularityData(LightningDataModule):
    """Images with captions, sentences, phrases and regions from WebDataset shards, or image files with captions.

    Args:
        shards: training shards: tars, folders, globs, braces or remote URLs. None: the embedded ``scenes``, written
            once into a cache folder.
        val_shards: validation shards; None: the dev scenes where ``shards`` is None, else no validation.
        test_shards: the shards of ``lightning test``; None: the held-out scenes where neither ``shards`` nor
            ``val_shards`` are named, else the validation shards.
        batch_size: images per batch and rank.
        global_batch_size: images per batch over all ranks, in place of ``batch_size``: any number of ranks that divides
            it trains the same. Losses compare the images of one batch, also where gradients are accumulated.
        val_batch_size: images per batch and rank in validation.
        batches_per_epoch: batches per rank that make an epoch; None: one pass over the training samples. Needed for
            remote shards, which are not counted.
        num_workers: loader processes per rank; None: one for each core but one, at most 8.
        image_size: side of the square in pixels (follows the encoder when run from the command line).
        context_length: tokens of the longest text, SOT and EOT included (follows the encoder likewise).
        sampling: the number of texts of each grain that an image gives.
        regions: the boxes that an image gives, and those of them that are crops too.
        train_transform: the part of a training image that is kept; None: a random part of 50 to 100 % of its area.
        val_transform: the same in validation; None: all of it, squashed, so that every box stays.
        skip: how many samples may be unusable before the run stops.
        fetch: remote shards: time limits and retries for storage.
        pairs: training data without shards: a list of (path, caption), or the path of a table of them (.csv, .tsv,
            .jsonl, .json, .parquet). Captions are cut into sentences and phrases as they are read.
        val_pairs: the same for validation; None: ``pair_reading.val_share`` of ``pairs``, or ``val_shards``.
        pair_reading: how pairs are read, and the share of them that validates.
        scenes: size of the embedded data set.
        shuffle_samples: remote shards: the least number of samples that a reader shuffles together.
        seed: of order, crops and drawn texts.
        weights: the share of the samples that each entry of ``shards`` gives, in any unit; None: all are one set, and
            every sample comes once per pass.
        shuffle_shards: local shards: the number of shards whose samples are shuffled together.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        shards: str | list[str] | None = None,
        val_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        batch_size: int = 64,
        val_batch_size: int = 64,
        batches_per_epoch: int | None = None,
        num_workers: int | None = None,
        image_size: int = 64,
        context_length: int = 248,
        sampling: GrainSampling = GrainSampling(),
        regions: RegionSampling = RegionSampling(),
        train_transform: ImageTransform | None = None,
        val_transform: ImageTransform | None = None,
        skip: SkipPolicy = SkipPolicy(),
        scenes: SceneSet = SceneSet(),
        shuffle_samples: int = 1000,
        seed: int = 0,
        weights: list[float] | None = None,
        shuffle_shards: int = 64,
        global_batch_size: int | None = None,
        fetch: FetchPolicy = FetchPolicy(),
        pairs: str | Path | Sequence[tuple[str | Path, str]] | None = None,
        val_pairs: str | Path | Sequence[tuple[str | Path, str]] | None = None,
        pair_reading: PairReading = PairReading(),
    ) -> None:
        super().__init__()
        self.pairs, self.val_pairs, self.pair_reading = pairs, val_pairs, pair_reading
        self._check_sources(shards, val_shards, weights)
        at_least("data", 1, batch_size=batch_size, val_batch_size=val_batch_size)
        at_least("data", 1, shuffle_samples=shuffle_samples, shuffle_shards=shuffle_shards)
        at_least("data", 1, batches_per_epoch=1 if batches_per_epoch is None else batches_per_epoch)
        at_least("data", 1, global_batch_size=1 if global_batch_size is None else global_batch_size)
        at_least("data", 0, num_workers=0 if num_workers is None else num_workers, seed=seed)
        at_least("data", 8, image_size=image_size)
        self.shards, self.val_shards, self.test_shards = shards, val_shards, test_shards
        self._batch_size = GlobalBatch(batch_size, global_batch_size)
        self.val_batch_size, self.batches_per_epoch = val_batch_size, batches_per_epoch
        self.num_workers = default_workers() if num_workers is None else num_workers
        self.image_size, self.input_format = image_size, InputFormat(Tokenizer(context_length))
        self.sampling, self.regions = sampling, regions
        self.train_transform, self.val_transform = train_transform or RandomCrop(), val_transform or Squash()
        self.skip, self.fetch, self.shuffle_samples, self.seed = skip, fetch, shuffle_samples, seed
        self.scenes, self.weights, self.shuffle_shards = scenes, weights, shuffle_shards
        self._train: list[Sequence[Shard]] = []  # of each source
        self._val: Sequence[Shard] = []
        self._progress = ResumeState()
        self._stream: StreamBatches | None = None
        self._first_val: FirstSamples | None = None

    def prepare_data(self) -> None:
        """Write the embedded data set if it is used and does not exist yet (one process per node)."""
        if self.shards is None and self.pairs is None:
            self._scenes()

    def setup(self, stage: str) -> None:
        """Find and check all shards, before training starts.

        Raises:
            ShardError: a shard is missing, damaged or empty, or there are too few samples for one batch, or
                ``global_batch_size`` cannot be shared out.
        """
        self._follow_encoder()
        train: str | Sequence[str | Path] | None = self.shards
        val: str | Sequence[str | Path] | None = self.val_shards
        test: str | Sequence[str | Path] | None = self.test_shards or val
        if train is None and self.pairs is None:
            embedded = self._scenes()
            train, val = embedded.train, val or embedded.dev
            test = test or (embedded.held_out if self.val_pairs is None else None)
        measured = test if stage == "test" else val
        self._train, self._val, self._first_val = [], find_shards(measured) if measured else [], None
        if stage == "fit" and train is not None:
            self._train = self._find_sources(train)
        self._find_pairs(stage, has_validation=bool(measured))
        if stage == "fit":
            if self.trainer is not None:
                self._progress = ResumeState()  # a checkpoint's comes after this
            self._check_epoch_batches()
            if self._is_first_rank():
                self._batch_size.log(self._ranks(), 1 if self.trainer is None else self.trainer.accumulate_grad_batches)
            if not self._val:
                logger.info(
                    "no validation: data.val_shards is not set, nor data.val_pairs or data.pair_reading.val_share"
                )

    def _follow_encoder(self) -> None:
        """Prepare texts and pixels as the encoder that is trained wants them."""
        model = getattr(self.trainer, "lightning_module", None)
        wanted = getattr(getattr(model, "encoder", None), "input_format", None)
        if isinstance(wanted, InputFormat):
            own, tokenizer = self.input_format.tokenizer, wanted.tokenizer
            shorter = own.context_length < tokenizer.context_length  # texts may be cut before the model's context
            if isinstance(own, Tokenizer) and isinstance(tokenizer, Tokenizer) and shorter:
                tokenizer = own
            self.input_format = replace(wanted, tokenizer=tokenizer)

    def train_dataloader(self) -> EpochLoader:
        """The training batches of one rank; calls ``setup("fit")`` if it was not called before."""
        if not self._train:
            self.setup("fit")
        batches = self._epoch_batches()
        settings = self._reader_settings(self._rank_batch_size(), training=True)
        reader = training_batches(self._train, self.weights, settings, self.shuffle_shards, self.shuffle_samples)
        self._stream = reader if isinstance(reader, StreamBatches) else None
        if self._stream is not None:
            self._stream.restore(self._progress.stream)
        return EpochLoader(
            reader,
            batches,
            self.num_workers,
            lambda: self._progress.resume_point(self.trainer, reader.global_batch, batches),
        )

    @property
    def validates(self) -> bool:
        """True where the settings name a validation set, or the embedded scenes have it."""
        return bool(self.val_shards or self.val_pairs or self.pair_reading.val_share) or not (self.shards or self.pairs)

    def val_dataloader(self) -> PassLoader | list[Any]:
        """Every validation sample once, split over ranks; empty where there is no validation set."""
        settings = self._reader_settings(self.val_batch_size, training=False)
        return PassLoader(single_pass(self._val, settings), self.num_workers) if self._val else []

    def first_val_samples(self) -> FirstSamples | None:
        """The first validation batch of this rank, on the CPU, with its texts; None where there is no validation set.

        Read once, which takes as long as a step, without worker processes or a change of the random state.
        """
        if self._first_val is None and self._val:
            self._first_val = first_samples(self._val, self._reader_settings(self.val_batch_size, training=False))
        return self._first_val

    def test_dataloader(self) -> PassLoader | list[Any]:
        """Every test sample once, split over ranks, after ``setup("test")``."""
        return self.val_dataloader()

    def predict_dataloader(self) -> PassLoader | list[Any]:
        """The validation samples."""
        return self.val_dataloader()

    @override
    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch; what the host knows of it, indices, masks and counts, it need not read back from the device."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        keep_host_copies(moved, batch)
        return moved

    @override
    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """uint8 pixels to the encoder's normalised floats, on the device."""
        normalise = self.input_format.normalise
        crops = batch.crops._replace(pixels=normalise(batch.crops.pixels))
        return batch._replace(images=normalise(batch.images), crops=crops)

    def describe(self) -> dict[str, Any]:
        """The data and its settings in plain words and numbers, for a model card."""
        return {
            "shards": self._described_shards(),
            "samples": self._samples(),
            "batch_size": self._rank_batch_size(),
            "ranks": self._ranks(),
            "sampling": asdict(self.sampling),
            "regions": asdict(self.regions),
        }

    def fingerprint(self) -> list[Any]:
        """All that determines the order of samples: settings, and every shard with its number of samples."""
        shards = [[(shard.url, shard.samples) for shard in source] for source in self._train]
        return [self.describe(), self.seed, self.shuffle_shards, self.weights, self.image_size, shards, len(self._val)]

    def trained_on(self) -> str | None:
        """The training shards in a few words, without their folders; None where remote ones are not counted."""
        samples, shards = self._samples(), [shard for source in self._train for shard in source]
        if samples is None:
            return None
        names = repr([(Path(shard.url).name, shard.samples) for shard in shards])
        return f"{len(shards)} shards, {samples} samples ({hashlib.sha256(names.encode()).hexdigest()[:8]})"

    def global_batch(self, ranks: int) -> int:
        """Images per batch over all ``ranks``."""
        return self._batch_size.of_rank(ranks) * ranks

    def label_names(self) -> tuple[str, ...]:
        """The labels that boxes of the validation set may have; empty where the manifest of any shard has none."""
        if isinstance(self._val, PairSource):
            return ()
        manifests = {Path(shard.url).parent / "manifest.json" for shard in self._val}
        labels_by_shard = [json.loads(m.read_text()).get("labels", []) if m.is_file() else [] for m in manifests]
        return tuple(sorted({label for labels in labels_by_shard for label in labels})) if all(labels_by_shard) else ()

    def state_dict(self) -> dict[str, Any]:
        """The number of samples that all ranks together have been trained on, where a resumed run continues.

        Of remote shards also ``StreamBatches.state``. Collective then: every rank must call it.
        """
        batch = self._rank_batch_size() * self._ranks()
        state: dict[str, Any] = {"samples": self._progress.samples(self.trainer, batch), "global_batch": batch}
        return state if self._stream is None else state | {"stream": self._stream.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the count of a checkpoint."""
        self._progress.load(state_dict)

    def fit_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Convert a checkpoint of a run with another global batch size, before Lightning restores its counts."""
        checkpoint_batch = checkpoint.get(type(self).__qualname__, {}).get("global_batch")
        run_batch = self._rank_batch_size() * self._ranks()
        if checkpoint_batch not in (None, run_batch) and self._train:
            fit_epoch(checkpoint, checkpoint_batch, run_batch, self._epoch_batches())
            if self._is_first_rank():
                warn_changed_batch(checkpoint_batch, run_batch)

    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _rank_batch_size(self) -> int:
        return self._batch_size.of_rank(self._ranks())

    def _is_first_rank(self) -> bool:
        return self.trainer is None or self.trainer.is_global_zero

    def _scenes(self) -> scenes.ScenesShards:
        return scenes.ensure_shards(**asdict(self.scenes))

    def _check_sources(self, shards: object, val_shards: object, weights: object) -> None:
        """Raise ``ValueError`` where pairs and shards, which exclude each other, are both given, or a pair is none."""
        for name, pairs, others in (("pairs", self.pairs, shards), ("val_pairs", self.val_pairs, val_shards)):
            if pairs is not None and others is not None:
                other = name.replace("pairs", "shards")
                raise ValueError(f"data.{name} and data.{other} are both given: leave one out")
            if pairs is not None and not isinstance(pairs, (str, Path)):
                check_pairs(pairs, f"data.{name}")
        if self.pairs is not None and weights is not None:
            raise ValueError(f"data.weights is for several entries of data.shards, not for data.pairs, got {weights}")
        if self.pair_reading.val_share and (self.pairs is None or self.val_pairs is not None or val_shards is not None):
            raise ValueError(
                f"data.pair_reading.val_share {self.pair_reading.val_share} takes validation from data.pairs: it needs "
                "these, and neither data.val_pairs nor data.val_shards"
            )

    def _find_pairs(self, stage: str, *, has_validation: bool) -> None:
        """Read the lists or tables of pairs that ``stage`` needs, in place of shards."""
        reading, first = self.pair_reading, self._is_first_rank()
        if self.val_pairs is not None and not (stage == "test" and has_validation):
            self._val = reading.read(self.val_pairs, "data.val_pairs", quiet=not first)
        if self.pairs is None or (stage != "fit" and (not reading.val_share or has_validation)):
            return
        train, val = reading.split(reading.read(self.pairs, "data.pairs", quiet=not first))
        if stage == "fit":
            self._train = [train]
        if val is not None and not has_validation:
            self._val = val

    def _find_sources(self, shards: str | Sequence[str | Path]) -> list[Sequence[Shard]]:
        if self.weights is None:
            return [find_shards(shards)]
        entries = [shards] if isinstance(shards, str) else list(shards)
        if len(entries) != len(self.weights):
            raise ShardError(
                f"data.weights must have one number for each of the {len(entries)} entries of data.shards, got "
                f"{self.weights}"
            )
        return [find_shards(entry) for entry in entries]

    def _described_shards(self) -> Any:
        if self.pairs is not None:
            return [shard.url for source in self._train for shard in source] or "pairs of images and captions"
        return "the embedded scenes" if self.shards is None else self.shards

    def _samples(self) -> int | None:
        counts = [shard.samples for source in self._train for shard in source]
        return None if None in counts else sum(n for n in counts if n is not None)

    def _epoch_batches(self) -> int:
        if self.batches_per_epoch is not None:
            return self.batches_per_epoch
        return (self._samples() or 0) // (self._rank_batch_size() * self._ranks())

    def _check_epoch_batches(self) -> None:
        samples = self._samples()
        if problem := self._batch_size.problem(self._ranks()):
            raise ShardError(problem)
        if self.batches_per_epoch is None and samples is None:
            raise ShardError("remote shards are not counted beforehand: set data.batches_per_epoch")
        if self._epoch_batches() == 0:
            raise ShardError(
                f"{samples} training samples do not fill one batch of {self._rank_batch_size()} on each of "
                f"{self._ranks()} ranks: lower data.batch_size or set data.batches_per_epoch"
            )

    def _reader_settings(self, batch_size: int, *, training: bool) -> ReaderSettings:
        prepare = SamplePreprocessor(
            image_size=self.image_size,
            transform=self.train_transform if training else self.val_transform,
            sampling=self.sampling,
            tokenizer=self.input_format.tokenizer,
            random_texts=training,
            regions=self.regions,
            resampling=self.input_format.resampling,
        )
        rank = self.trainer.global_rank if self.trainer is not None else 0
        return ReaderSettings(prepare, batch_size, self.seed, rank, self._ranks(), self.skip, self.fetch)
