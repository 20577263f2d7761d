"""Tokenizers as one ``tokenizer.json`` of the tokenizers library, which cuts texts to the context and fills rows: for
those who read texts without this package.

A text's ids are those of our tokenizers, but for one thing: broken Unicode and HTML escapes are not mended first, which
the library cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenizers import Regex, normalizers, processors
from tokenizers import Tokenizer as FastTokenizer

from datamodules.batching.library_tokenizer import LibraryTokenizer, parse, with_normalizers
from datamodules.batching.tokenizer import EOT, SOT, TextTokenizer, Tokenizer, backend

WHITE_SPACE = (normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip())
CLEANINGS: dict[str, Sequence[normalizers.Normalizer]] = {  # open_clip's functions, by name, as normalisers
    "_clean_whitespace": WHITE_SPACE,
    "_clean_lower": (*WHITE_SPACE, normalizers.Lowercase()),
    "_clean_canonicalize": (
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(r"""[!-/:-@\[-`{-~]"""), ""),
        normalizers.Lowercase(),
        *WHITE_SPACE,
    ),
}


def row_tokenizer(tokenizer: TextTokenizer, pad: int, left: bool = False, length: int | None = None) -> str:
    """The text of a ``tokenizer.json``.

    Args:
        tokenizer: CLIP's, or one of the library's.
        pad: the id that fills rows.
        left: fill in front of the text, not behind it.
        length: of a row; None: that of the longest text of a batch.

    Raises:
        ValueError: where the tokenizer is of another kind, or cleans texts in a way that the library cannot.
    """
    if isinstance(tokenizer, Tokenizer):
        theirs = parse(backend().to_str())
        theirs.normalizer = normalizers.Sequence([*WHITE_SPACE, normalizers.Lowercase()])  # pyright: ignore[reportAttributeAccessIssue] declared as read-only
        special = [("<|startoftext|>", SOT), ("<|endoftext|>", EOT)]
        template = processors.TemplateProcessing(single="<|startoftext|> $A <|endoftext|>", special_tokens=special)
        theirs.post_processor = template  # pyright: ignore[reportAttributeAccessIssue] declared as read-only
    elif isinstance(tokenizer, LibraryTokenizer):
        theirs = parse(with_normalizers(tokenizer.json, *_normalizers(tokenizer.clean)))
    else:
        raise ValueError(f"--format onnx cannot write a tokenizer of the kind {type(tokenizer).__name__}")
    theirs.enable_truncation(tokenizer.context_length)
    theirs.enable_padding(
        direction="left" if left else "right", pad_id=pad, pad_token=theirs.id_to_token(pad) or "", length=length
    )
    return theirs.to_str()


def _normalizers(clean: Callable[[str], str] | None) -> Sequence[normalizers.Normalizer]:
    if clean is None:
        return ()
    if clean.__name__ not in CLEANINGS:
        raise ValueError(f"--format onnx cannot write a tokenizer that cleans texts by {clean.__name__}")
    return CLEANINGS[clean.__name__]


def rows_of(json: str, texts: Sequence[str]) -> list[list[int]]:
    """Rows of token ids by a ``tokenizer.json``."""
    return [encoding.ids for encoding in FastTokenizer.from_str(json).encode_batch(list(texts))]
