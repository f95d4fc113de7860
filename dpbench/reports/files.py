"""The leaderboard's files: results, tables, the HTML page and the figures, made when what they show has changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from dpbench import source, store
from dpbench.analysis.board import Board, pack
from dpbench.reports import formats

MADE = ".made"  # says of what the files beside it were made; it is there only while all of them are whole
TEXTS = {"json": "json", "csv": "csv", "markdown": "md", "latex": "tex", "html": "html"}


def files(board: Board) -> list[Path]:
    """Write the files under the results' folder and return them; they are not drawn again from the same.

    A board without a `data_root` has the pictures of the last one that was given.
    """
    folder = store.home() / "leaderboards" / board.grid.name
    with store.locked(Path(f"{folder}.lock")):  # another process may be at it
        return _files(board, folder)


def _files(board: Board, folder: Path) -> list[Path]:
    name, packed, results = board.grid.name, pack(board), folder / "results.json.gz"
    before = store.read_json(folder / MADE, lambda content: {key: str(content[key]) for key in ("of", "root")})
    if board.data_root is None and before and before["root"] and Path(before["root"]).is_dir():
        board = replace(board, data_root=Path(before["root"]))
    root = str(board.data_root.resolve()) if board.data_root else ""
    now = {"of": _state(board), "root": root}
    if before == now and results.is_file() and results.read_bytes() == packed:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    store.remove(folder / MADE)
    from dpbench.reports import figures

    made = figures.save(board, folder)
    for form, suffix in TEXTS.items():
        text = formats.text(board, form)
        made.append(folder / f"{name}.{suffix}")
        store.write(made[-1], lambda file: file.write_text(text, encoding="utf-8"))  # noqa: B023
    for old in set(folder.iterdir()) - {*made, results}:
        if old.is_file():
            store.remove(old)
    store.write(results, lambda file: file.write_bytes(packed))
    if not board.gallery.unread:  # else they are made again, until the pictures can be had
        store.write_json(folder / MADE, now)
    return sorted([*made, results])


def _state(board: Board) -> str:
    """What the files are made of beside the results: code, published figures, and the selections, for pictures."""
    selections = {key: store.stamp(store.run_folder(key) / "selections.npz") for key in board.results}
    return hashlib.sha256(json.dumps([source.everything(), selections]).encode()).hexdigest()
