"""What was written to the services that loggers write to: read back from the files that their packages leave."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from leyden.loggers.wandb_files import _records

Rows = Counter[tuple[tuple[str, float], ...]]


def wandb_records(folder: Path, kind: str) -> list[Any]:
    """The records of one kind in all ``.wandb`` files below ``folder``, one process's after another's."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for _, data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # made when it is imported
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == kind:
                found.append(getattr(record, kind))
    return found


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    """The rows of all runs below ``folder``, with what ``wandb`` adds (``_step`` ...)."""
    rows = []
    for record in wandb_records(folder, "history"):
        row: dict[str, Any] = {}
        for item in record.item:
            *outer, last = item.nested_key or [item.key]
            inside = row
            for name in outer:
                inside = inside.setdefault(name, {})
            inside[last] = json.loads(item.value_json)
        rows.append(row)
    return rows


def wandb_rows(folder: Path) -> Rows:
    """How often each row stands there, as :func:`csv_rows` has it."""
    rows: Rows = Counter()
    for row in wandb_history(folder):
        plain = {name.replace("trainer/global_step", "step"): float(value) for name, value in row.items() if name[0] != "_"}
        rows[tuple(sorted(plain.items()))] += 1
    return rows


def mlflow_values(uri: str) -> Rows:
    """How often each value stands in the runs at ``uri``, as a row of one value and its step."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    values: Rows = Counter()
    for run in client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]):
        for name in run.data.metrics:
            for each in client.get_metric_history(run.info.run_id, name):
                values[(name, each.value), ("step", float(each.step))] += 1
    return values


def csv_rows(path: Path) -> Rows:
    """How often each row stands in a ``metrics.csv``: names and values in order of the names."""
    with path.open(newline="") as file:
        return Counter(tuple(sorted((name, float(cell)) for name, cell in row.items() if cell)) for row in csv.DictReader(file))


def single(rows: Rows) -> Rows:
    """The same, each value a row with its step."""
    values: Rows = Counter()
    for row, count in rows.items():
        for name, value in row:
            if name != "step":
                values[(name, value), ("step", dict(row)["step"])] += count
    return values
