"""Statistics of shards, as the β-CLIP paper gives them: phrases of an image, tokens of a phrase, and so on.

They are kept as histograms, so that those of single shards add up to those of the whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from datamodules.batching.tokenizer import Tokenizer
from datamodules.sample import Sample

_QUANTITIES = {
    "caption_tokens": "tokens of a caption",
    "sentences": "sentences of an image",
    "phrases": "phrases of an image",
    "phrase_tokens": "tokens of a phrase",
    "stop_phrases": "stop-phrases of an image, which say nothing and stand apart",
    "boxes": "boxes of an image",
    "named_boxes": "boxes of an image that a phrase names",
}
_BARS, _WIDTH = 12, 40


class Statistics:
    """A histogram over samples for each quantity; SOT and EOT count as tokens."""

    def __init__(self) -> None:
        self.histograms: dict[str, Counter[int]] = {name: Counter() for name in _QUANTITIES}
        self._tokenizer = Tokenizer()

    def add(self, sample: Sample) -> None:
        """Count a sample."""
        length = self._tokenizer.length
        self.histograms["caption_tokens"][length(sample.caption)] += 1
        self.histograms["sentences"][len(sample.sentences)] += 1
        self.histograms["phrases"][len(sample.phrases)] += 1
        self.histograms["phrase_tokens"].update(length(phrase.text) for phrase in sample.phrases)
        self.histograms["stop_phrases"][len(sample.stop_phrases)] += 1
        self.histograms["boxes"][len({region.box for region in sample.regions})] += 1
        self.histograms["named_boxes"][len({region.box for region in sample.regions if region.phrase is not None})] += 1

    def merge(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Add the ``counts()`` of another shard."""
        for name, histogram in counts.items():
            self.histograms[name].update({int(value): n for value, n in histogram.items()})

    def counts(self) -> dict[str, dict[str, int]]:
        """For each quantity the number of occurrences of each value; keys are texts, as in JSON."""
        return {
            name: {str(value): histogram[value] for value in sorted(histogram)}
            for name, histogram in self.histograms.items()
        }

    def mean(self, name: str) -> float:
        """The mean of a quantity."""
        return sum(value * n for value, n in self.histograms[name].items()) / max(self.histograms[name].total(), 1)

    def quantile(self, name: str, share: float) -> int:
        """The least value that ``share`` of all do not exceed; 0 where there are none."""
        remaining = share * self.histograms[name].total()
        for value in sorted(self.histograms[name]):
            remaining -= self.histograms[name][value]
            if remaining <= 0:
                return value
        return 0

    def chart(self) -> str:
        """Means, quantiles and bars as text."""
        parts = []
        for name, description in _QUANTITIES.items():
            if any(self.histograms[name]):
                heading = f"{description}: mean {self.mean(name):.2f}, median {self.quantile(name, 0.5)}, "
                parts.append(heading + f"99 % at most {self.quantile(name, 0.99)}\n{self._bars(name)}")
        return "\n".join(parts)

    def _bars(self, name: str) -> str:
        last = max(self.quantile(name, 0.99), 1)
        step = -(-(last + 1) // _BARS)
        bins = Counter()
        for value, n in self.histograms[name].items():
            bins[min(value // step, last // step)] += n
        highest = max(bins.values())
        rows = []
        for b in range(last // step + 1):
            label = f"{b * step}" if step == 1 else f"{b * step}-{(b + 1) * step - 1}"
            label += "+" if b == last // step else ""
            rows.append(f"  {label:>9} {'█' * round(_WIDTH * bins[b] / highest)} {bins[b]}")
        return "\n".join(rows)
