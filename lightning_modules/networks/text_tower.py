"""CLIP's text transformer (transformers' own), reading a batch's unique texts packed into rows.

One call of the tower per batch, whatever the grains in it. A text's feature stands at its last token (EOT). The
features of all its tokens, through the same final norm and projection, come with it: a caption's own pass then also
serves the methods that look at words (MulCLIP, HarmoCLIP).
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedModel

from datamodules.batch import RaggedTexts
from datamodules.batching.tokenizer import EOT
from lightning_modules.networks.attention import TEXT_ATTENTION, additive, precision_of
from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.long_context import PositionTable
from lightning_modules.networks.sequence_packing import pack
from lightning_modules.networks.variable_length import Spans, offered
from losses.core.host_copies import on_host


class TextTower(nn.Module):
    """Ragged texts to token features in the joint space, not normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.transformer = CLIPTextModel(text_config(config))
        embeddings = self.transformer.embeddings
        positions = PositionTable(embeddings.position_embedding.weight, config.frozen_positions)
        self.transformer.register_module("embeddings", RowEmbeddings(embeddings.token_embedding, positions))
        self.projection = nn.Linear(config.text_width, config.embed_dim, bias=False)
        nn.init.normal_(self.projection.weight, std=config.text_width**-0.5)
        self.context_length = config.context_length
        self.row_lengths: tuple[int, ...] = ()  # of the rows that texts are packed into; () for any

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each layer's activations in the backward pass instead of keeping them (while training)."""
        checkpoint_blocks(self.transformer, enable)

    def forward(self, texts: RaggedTexts) -> Float[Tensor, "T D"]:
        """Features of all tokens, in the order of ``texts.tokens``; text ``u`` is at ``texts.offsets[u + 1] - 1``.

        Raises:
            ValueError: where a text is empty or longer than the context, or there is none.
        """
        offsets: list[int] = on_host(texts.offsets).tolist()
        lengths = [end - start for start, end in pairwise(offsets)]
        if not lengths or min(lengths) < 1:
            raise ValueError(f"texts must hold at least one text and no empty one, got lengths {lengths}")
        longest = max(lengths)
        if longest > self.context_length:
            raise ValueError(f"a text must have at most context_length = {self.context_length} tokens, got {longest}")
        return self.projection(self._hidden(texts, offsets, longest))

    def _hidden(self, texts: RaggedTexts, offsets: list[int], longest: int) -> Float[Tensor, "T C"]:
        """The transformer's output for each token: of all texts end to end, or packed into rows with a mask."""
        weights, config = self.projection.weight, self.transformer.config
        precision, heads = precision_of(weights), config.num_attention_heads
        if not self.row_lengths and offered(weights.device, precision, heads, config.hidden_size // heads):
            ends, count = texts.offsets.to(weights.device), len(texts.tokens)
            begins = torch.repeat_interleave(ends[:-1], ends.diff(), output_size=count)
            positions = torch.arange(count, device=weights.device) - begins
            spans = Spans(ends.to(torch.int32), longest)
            output = self.transformer(input_ids=texts.tokens[None], position_ids=positions[None], spans=spans)
            return output.last_hidden_state[0]
        packed = pack(texts.tokens, offsets, self.context_length, self.row_lengths)
        output = self.transformer(
            input_ids=packed.tokens,
            attention_mask=additive(packed.mask, precision),
            position_ids=packed.positions,
        )
        return output.last_hidden_state.flatten(0, 1)[packed.slot]


class RowEmbeddings(nn.Module):
    """Embeddings of tokens and of their positions; unlike transformers' own they take rows longer than the context,
    since positions begin anew with each text.
    """

    def __init__(self, tokens: nn.Module, positions: PositionTable) -> None:
        super().__init__()
        self.token_embedding, self.position_embedding = tokens, positions

    def forward(
        self, input_ids: Int[Tensor, "N L"], position_ids: Int[Tensor, "N L"] | None = None
    ) -> Float[Tensor, "N L C"]:
        """The sum of both; positions count from 0 in each row where none are given."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return self.token_embedding(input_ids) + self.position_embedding(position_ids)


def checkpoint_blocks(transformer: PreTrainedModel, enable: bool) -> None:
    """Recompute the activations of a transformers model's blocks in the backward pass instead of keeping them."""
    # the public switch changed its name within transformers 5; the method behind it did not
    transformer._set_gradient_checkpointing(enable, partial(checkpoint, use_reentrant=False))


def text_config(config: EncoderConfig) -> CLIPTextConfig:
    """The text tower in transformers' terms. SOT and EOT are those of CLIP's tokenizer, whatever tokens were added
    after them; in a smaller vocabulary they are the two last ids.
    """
    eot = min(EOT, config.vocab_size - 1)
    text = CLIPTextConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.text_width,
        intermediate_size=4 * config.text_width,
        projection_dim=config.embed_dim,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_heads,
        max_position_embeddings=config.context_length,
        hidden_act=config.activation,
        bos_token_id=eot - 1,
        eos_token_id=eot,
        pad_token_id=eot,
    )
    text._attn_implementation = TEXT_ATTENTION
    return text
