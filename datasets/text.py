"""Texts of one's own: a CSV, TSV or JSONL file of texts and labels, or a folder with a file of lines for each class."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dpbench.data import Dataset, UsageError, param, split_by_class
from dpbench.errors import one_line
from dpbench.tokens import Texts, encode, encode_by


class Text(Dataset):
    """The texts of `path`, in the column `text` (of JSONL: the key), classified by `label`.

    A folder has one .txt file for each class, with a text on each line. Texts become at most `length` tokens of a
    vocabulary of `vocabulary`, byte pairs learnt from the training texts; or of a pretrained tokenizer, which lies in
    the folder `tokenizer` beside its model, `hf:PATH`. `test` is the share held out as test samples.
    """

    path: str = param("")
    text: str = param("text")
    label: str = param("label")
    length: int = param(128, low=1, high=100_000)
    vocabulary: int = param(8192, low=300, high=1_000_000)
    tokenizer: str = param("")
    test: float = param(0.2, low=0.01, high=0.9)
    kind = "texts"

    def read(self, root: Path | None) -> tuple[Texts, Texts]:
        if not self.path:
            raise UsageError("text: which? text:FILE.csv, text:FILE.tsv, text:FILE.jsonl or text:FOLDER")
        texts, names = self._samples((root or Path()) / self.path)
        labels = np.unique(names, return_inverse=True)[1]
        train, test = split_by_class(labels, self.test)
        if self.tokenizer:
            tokens, vocabulary = encode_by(self.tokenizer, texts, self.length)
        else:
            tokens, vocabulary = encode(texts, train, self.vocabulary, self.length), self.vocabulary
        found = Texts(tokens, vocabulary, torch.from_numpy(labels), self.tokenizer)
        return found.at(torch.from_numpy(train)), found.at(torch.from_numpy(test))

    def _samples(self, path: Path) -> tuple[list[str], list[str]]:
        """The texts and the names of their classes."""
        try:
            if path.is_dir():
                return _of_folder(path)
            if path.suffix == ".jsonl":
                frame = pd.DataFrame(_objects(path))
            else:
                frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str)
        except FileNotFoundError:
            raise UsageError(f"text: there is no file {path}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"text: {path} is not UTF-8 at byte {error.start}") from None
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise UsageError(f"text: {path} cannot be read: {one_line(error, 200)}") from None
        for what, column in (("text", self.text), ("label", self.label)):
            if column not in frame:
                raise UsageError(
                    f"text: {path} has no {column!r}; it has {', '.join(map(str, frame.columns))}; say {what}=NAME"
                )
            missing = frame[column].isna().to_numpy()
            if missing.any():
                raise UsageError(f"text: {path}: sample {int(missing.argmax())} has no {column!r}")
        if frame[self.label].nunique() < 2:
            raise UsageError(f"text: {path}: all samples are of one {self.label}; at least two classes are needed")
        return list(frame[self.text].astype(str)), list(frame[self.label].astype(str))


def _objects(path: Path) -> list[dict[str, Any]]:
    """The object on each line of a JSONL file."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            try:
                found.append(dict(json.loads(line)))
            except (ValueError, TypeError, RecursionError):
                raise UsageError(f"text: {path}: line {number} is not an object of JSON") from None
    return found


def _of_folder(path: Path) -> tuple[list[str], list[str]]:
    texts, labels = [], []
    files = sorted(path.glob("*.txt"))
    if len(files) < 2:
        raise UsageError(f"text: {path} has {len(files)} .txt files; it needs one for each class, two at least")
    for file in files:
        try:
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UsageError(f"text: {file} is not UTF-8 at byte {error.start}") from None
        if not lines:
            raise UsageError(f"text: {file} has no lines")
        texts += lines
        labels += [file.stem] * len(lines)
    return texts, labels
