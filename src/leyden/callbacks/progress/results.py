"""The table of results that validate and test print."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence

from leyden.callbacks.progress.lines import in_a_line
from leyden.distributed.rank_zero import rank_zero_print

TITLES = {"validate": "Validate metric", "test": "Test metric"}


def results_table(results: Sequence[Mapping[str, float]], title: str, width: int | None = None) -> str:
    """Results by metric and loader as plain text: a row a metric, a column a loader.

    ``results`` holds one mapping a loader. Where the columns do not fit ``width`` (the screen's), they go on below.
    """
    columns = []
    names: dict[str, None] = {}
    for index, result in enumerate(results):
        values = {in_a_line(re.sub(r"/dataloader_idx_\d+$", "", name)): str(value) for name, value in result.items()}
        if values:
            columns.append((f"DataLoader {index}", values))
            names.update(dict.fromkeys(sorted(values)))
    if not names:
        return ""
    width = shutil.get_terminal_size().columns if width is None else width
    first = max(len(title), *map(len, names))
    blocks: list[list[tuple[str, dict[str, str]]]] = []
    used = 0
    for column in columns:
        size = 3 + max(len(column[0]), *map(len, column[1].values()))
        if not blocks or first + 2 + used + size > width:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += size
    return "\n\n".join(_block(title, list(names), first, block) for block in blocks)


def _block(title: str, names: list[str], first: int, columns: list[tuple[str, dict[str, str]]]) -> str:
    sizes = [max(len(head), *(len(value) for value in values.values())) for head, values in columns]
    rule = "-" * (first + 2 + sum(size + 3 for size in sizes))
    lines = [rule, _row(title, first, [head for head, _ in columns], sizes), rule]
    lines += [_row(name, first, [values.get(name, "") for _, values in columns], sizes) for name in names]
    return "\n".join([*lines, rule])


def _row(name: str, first: int, values: list[str], sizes: list[int]) -> str:
    cells = [f"{value:>{size}}" for value, size in zip(values, sizes, strict=True)]
    return f" {name:<{first}} | {' | '.join(cells)}".rstrip()


def print_results(results: Sequence[Mapping[str, float]], stage: str) -> None:
    """Print the results of ``validate`` or ``test``; nothing where nothing was logged."""
    text = results_table(results, TITLES.get(stage, f"{stage.capitalize()} metric"))
    if text:
        rank_zero_print(text, flush=True)
