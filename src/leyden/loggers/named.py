"""Which logger somebody meant who gave the Trainer a name or a class."""

from __future__ import annotations

import difflib

_BY_NAME = {
    "tensorboard": "TensorBoardLogger(save_dir)",
    "csv": "CSVLogger(save_dir)",
    "wandb": "WandbLogger()",
    "mlflow": "MLFlowLogger()",
    "comet": "CometLogger()",
}


def right_logger(given: object) -> str:
    """The sentence that says what to pass instead; empty where nobody can tell."""
    if isinstance(given, type):
        return f"Pass an instance: {given.__name__}(...)."
    near = difflib.get_close_matches(given.lower().removesuffix("logger"), _BY_NAME, n=1) if isinstance(given, str) else []
    return f"Pass leyden.loggers.{_BY_NAME[near[0]]}." if near else ""
