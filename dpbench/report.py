"""The leaderboard's files: results, tables, the HTML page and the figures, made when the results have changed."""

from __future__ import annotations

from pathlib import Path

from dpbench import render, store
from dpbench.board import Board, pack

TEXTS = {"json": "json", "csv": "csv", "markdown": "md", "latex": "tex", "html": "html"}


def files(board: Board) -> list[Path]:
    """Write the files under the results' folder and return them; equal results are not drawn again."""
    folder = store.home() / "leaderboards" / board.grid.name
    with store.locked(Path(f"{folder}.lock")):  # another process may be at it
        return _files(board, folder)


def _files(board: Board, folder: Path) -> list[Path]:
    name, packed, results = board.grid.name, pack(board), folder / "results.json.gz"
    if results.is_file() and results.read_bytes() == packed:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    from dpbench import figures  # here, since seaborn takes seconds to import

    made = figures.save(board, folder)
    for form, suffix in TEXTS.items():
        text = render.text(board, form)
        made.append(folder / f"{name}.{suffix}")
        store.write(made[-1], lambda file: file.write_text(text, encoding="utf-8"))  # noqa: B023
    for old in set(folder.iterdir()) - {*made, results}:
        if old.is_file():
            with store.told(old):
                old.unlink()
    store.write(results, lambda file: file.write_bytes(packed))  # last: it says that the others are whole
    return sorted([*made, results])
