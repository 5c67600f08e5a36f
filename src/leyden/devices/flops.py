"""Count floating-point operations, and tell how many a device can do at best."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from leyden.distributed.rank_zero import rank_zero_warn_user
from leyden.errors import PossibleUserWarning


def measure_flops(model: nn.Module, forward_fn: Callable[[], Any], loss_fn: Callable[[Any], Tensor] | None = None) -> int:
    """Operations of one ``forward_fn()``, and of its backward where ``loss_fn`` makes a loss of what it returns.

    A model on the ``meta`` device is counted without being computed::

        with torch.device("meta"):
            model, x = MyModel(), torch.randn(2, 32)
            flops = measure_flops(model, lambda: model(x), lambda y: y.sum())
    """
    with FlopCounterMode(display=False) as counter:
        returned = forward_fn()
        if loss_fn is not None:
            loss_fn(returned).backward()
    return int(counter.get_total_flops())


_SXM = (67, 494.7, 989.4, 1978.9)
_NVL = (60, 417.5, 835.5, 1670.5)
# By the words that the device's name must have, the more particular first: float64; float32, tf32, bfloat16 and float16, int8;
# in 10^12 operations a second, without sparsity, products added up in float32. From NVIDIA's data sheets and architecture papers.
_RATES: tuple[tuple[str, float | None, tuple[float | None, ...]], ...] = (
    ("b200", 37, (75, 1125, 2250, 4500)),
    ("h200 nvl", 30, _NVL),
    ("h200", 34, _SXM),
    ("gh200", 34, _SXM),
    ("h100 nvl", 30, _NVL),
    ("h100 pcie", 25.6, (51.2, 378, 756, 1513)),
    ("h100 hbm2e", 25.6, (51.2, 378, 756, 1513)),
    ("h100", 33.5, _SXM),
    ("a100", 9.7, (19.5, 156, 312, 624)),
    ("a6000", None, (38.7, 77.4, 154.8, 309.7)),
    ("a40", None, (37.4, 74.8, 149.7, 299.3)),
    ("a10", None, (31.2, 62.5, 125, 250)),
    ("a10g", None, (31.2, 62.5, 125, 250)),
    ("l40s", None, (91.6, 183, 362.1, 733)),
    ("l40", None, (90.5, 90.5, 181, 362)),
    ("l4", None, (30.3, 60, 121, 242)),
    ("rtx 4090", None, (82.6, 82.6, 165.2, 660.6)),
    ("rtx 4080 super", None, (52.2, 52.2, 104.4, 417.6)),
    ("rtx 4080", None, (48.7, 48.7, 97.5, 389.9)),
    ("rtx 3090 ti", None, (40, 40, 80, 320)),
    ("rtx 3090", None, (35.6, 35.6, 71, 284)),
    ("rtx 3080 ti", None, (34.1, 34.1, 68.2, 272.8)),
    ("rtx 3080", None, (29.8, 29.8, 59.5, 238)),
    ("rtx 3070", None, (20.3, 20.3, 40.6, 162.6)),
    ("t4", None, (8.1, None, 65, 130)),
    ("quadro rtx 5000", None, (11.2, None, 89.2, None)),
    ("rtx 2080 ti", None, (14.2, None, 56.9, 227.7)),
    ("rtx 2080 super", None, (11.2, None, 44.6, 178.4)),
    ("rtx 2080", None, (10.6, None, 42.4, 169.6)),
    ("rtx 2070 super", None, (9.1, None, 36.3, 145)),
    ("titan rtx", None, (16.3, None, 130.5, 261)),
    ("v100s", 8.2, (16.4, None, 130, None)),
    ("v100 pcie", 7, (14, None, 112, None)),
    ("v100", 7.8, (15.7, None, 125, None)),
)
_WITHOUT_BFLOAT16 = ("t4", "quadro", "2080", "2070", "titan", "v100", "v100s")


def get_available_flops(device: torch.device, dtype: torch.dtype) -> int | None:
    """Operations a second that ``device`` can do at best in ``dtype``: of large dense matrix products and nothing else.

    For float32 that is tf32's rate where ``torch.set_float32_matmul_precision`` allows it. ``None`` for the CPU, and (with a
    warning) for a GPU or a format that is not in the table.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    found = next(((key, double, rates) for key, double, rates in _RATES if words.issuperset(key.split())), None)
    if found is None:
        rank_zero_warn_user(
            f"How many operations a second {name!r} can do at best is not known here, so nothing is said as a share of that. "
            f"Pass available_flops= to say it.",
            category=PossibleUserWarning,
        )
        return None
    key, double, (single, tf32, half, int8) = found
    if tf32 is not None and torch.get_float32_matmul_precision() != "highest":
        single = tf32
    brain = None if set(key.split()) & set(_WITHOUT_BFLOAT16) else half
    by_format = {
        torch.float64: double,
        torch.float32: single,
        torch.bfloat16: brain,
        torch.float16: half,
        torch.int8: int8,
    }
    rate = by_format.get(dtype)
    if rate is None:
        rank_zero_warn_user(
            f"How many operations a second {name!r} can do in {dtype} is not known here, so nothing is said as a share of that. "
            f"Pass available_flops= to say it.",
            category=PossibleUserWarning,
        )
        return None
    return round(rate * 1e12)
