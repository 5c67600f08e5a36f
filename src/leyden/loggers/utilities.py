"""What loggers of other packages bring hyper-parameters, metrics and checkpoints into shape with, under Lightning's names.

Names with an underscore, which published loggers import all the same (DVCLive, Aim, Neptune). ``leyden.utilities.logger``
has them too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from leyden.loggers.hyperparameters import as_dict, called, flatten_dict, only_plain
from leyden.loggers.services import prefixed, written_by

_convert_params = as_dict
_flatten_dict = flatten_dict
_sanitize_params = only_plain


def _add_prefix(metrics: Mapping[str, Any], prefix: str, separator: str) -> Mapping[str, Any]:
    """``metrics`` with ``prefix`` and ``separator`` before each name; as they are for an empty prefix."""
    return prefixed(metrics, prefix + separator) if prefix else metrics


def _sanitize_callable_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which functions and classes are their names. Nothing is called."""
    return {name: called(value) for name, value in params.items()}


def _is_json_serializable(value: Any) -> bool:
    """Whether JSON can say ``value``."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _convert_json_serializable(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which what JSON cannot say is its ``str``."""
    return {name: value if _is_json_serializable(value) else str(value) for name, value in params.items()}


def _scan_checkpoints(checkpoint_callback: Any, logged_model_time: Mapping[str, float]) -> list[tuple[float, str, Any, str]]:
    """The checkpoints of a callback that were written after ``logged_model_time`` says of their paths, the oldest first.

    Returns:
        For each: when (seconds since 1970), its path, the monitored value, and ``"best_k"``, ``"best"`` or ``"latest"``.
    """
    best_k, best = getattr(checkpoint_callback, "best_k_models", {}), getattr(checkpoint_callback, "best_model_path", "")
    return [
        (at, path, score, "best_k" if path in best_k else "best" if path == best else "latest")
        for at, path, score in written_by(checkpoint_callback)
        if logged_model_time.get(path, 0.0) < at
    ]
