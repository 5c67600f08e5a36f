"""Small tools, where Lightning's documents put them: the names of other rooms."""

from __future__ import annotations

import importlib
from typing import Any

from leyden.data.combined import CombinedLoader
from leyden.data.workers import suggested_max_num_workers
from leyden.devices.flops import measure_flops
from leyden.devices.seed import isolate_rng, seed_everything
from leyden.devices.throughput import Throughput
from leyden.devices.transfer import move_data_to_device
from leyden.distributed.rank_zero import rank_zero_debug, rank_zero_deprecation, rank_zero_info, rank_zero_only, rank_zero_warn
from leyden.distributed.sharing import is_picklable, is_shared_filesystem
from leyden.enums import GradClipAlgorithmType, LightningEnum
from leyden.errors import MisconfigurationException, PossibleUserWarning, disable_possible_user_warnings
from leyden.former_addresses import stand_in_addresses
from leyden.hparams_attributes import AttributeDict
from leyden.inspect.gradients import grad_norm
from leyden.inspect.shared_parameters import find_shared_parameters, set_shared_parameters
from leyden.not_offered import absent

__all__ = [
    "AttributeDict",
    "CombinedLoader",
    "GradClipAlgorithmType",
    "LightningEnum",
    "MisconfigurationException",
    "PossibleUserWarning",
    "Throughput",
    "disable_possible_user_warnings",
    "find_shared_parameters",
    "grad_norm",
    "is_picklable",
    "is_shared_filesystem",
    "isolate_rng",
    "measure_flops",
    "move_data_to_device",
    "rank_zero_debug",
    "rank_zero_deprecation",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
    "seed_everything",
    "set_shared_parameters",
    "suggested_max_num_workers",
]

_FILES = (
    "apply_func",
    "arg_parse",
    "argparse",
    "cli",
    "cloud_io",
    "combined_loader",
    "compile",
    "consolidate_checkpoint",
    "data",
    "debugging",
    "deepspeed",
    "device_parser",
    "distributed",
    "enums",
    "exceptions",
    "export",
    "grads",
    "imports",
    "memory",
    "migration",
    "model_helpers",
    "model_registry",
    "model_summary",
    "parameter_tying",
    "parsing",
    "rank_zero",
    "seed",
    "signature_utils",
    "throughput",
    "types",
    "upgrade_checkpoint",
    "warnings",
    "weights",
)


_ELSEWHERE = {
    # names that 0.9 to 1.9 had here: the face that has them today
    **dict.fromkeys(("AMPType", "DeviceType", "DistributedType", "ModelSummaryMode"), "enums"),
    "_module_available": "imports",
}
_UNDERSCORED_SINCE = "APEX BOLTS FAIRSCALE FAIRSCALE_PIPE GROUP HOROVOD HYDRA NATIVE_AMP OMEGACONF RPC TORCHTEXT TPU XLA"
"""The packages of which 1.1 had ``utilities.HYDRA_AVAILABLE``, without 1.2's underscore."""


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)
    if name.startswith("FLOAT") and name.endswith("_EPSILON"):
        return getattr(importlib.import_module("leyden.classic.tools"), name)
    if name.removesuffix("_AVAILABLE") in _UNDERSCORED_SINCE.split():
        name = f"_{name}"
    if name.startswith("_") and (name.endswith("_AVAILABLE") or "_GREATER_EQUAL_" in name):
        return getattr(importlib.import_module(f"{__name__}.imports"), name)
    if name in _FILES:
        return importlib.import_module(f"{__name__}.{name}")
    return absent(__name__, name, [*__all__, *_FILES])


stand_in_addresses(__name__)
