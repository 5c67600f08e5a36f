"""Small functions that 0.7 to 1.9 had beside the Trainer, and published code calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from leyden.data.reading import length_of
from leyden.devices.accelerators import find_usable_cuda_devices
from leyden.devices.transfer import move_data_to_device
from leyden.enums import LightningEnum
from leyden.errors import DeviceUnavailable, InvalidOption, InvalidType, NonFiniteLoss
from leyden.tree import tree_map

FLOAT16_EPSILON = torch.finfo(torch.float16).eps
FLOAT32_EPSILON = torch.finfo(torch.float32).eps
FLOAT64_EPSILON = torch.finfo(torch.float64).eps


class AMPType(LightningEnum):
    """Whose mixed precision: ``trainer.amp_backend``."""

    APEX = "apex"
    NATIVE = "native"


class DeviceType(LightningEnum):
    """Kinds of devices."""

    CPU = "CPU"
    GPU = "GPU"
    IPU = "IPU"
    TPU = "TPU"


class DistributedType(LightningEnum):
    """Names that ``distributed_backend`` had."""

    DP = "dp"
    DDP = "ddp"
    DDP2 = "ddp2"
    DDP_CPU = "ddp_cpu"
    DDP_SPAWN = "ddp_spawn"
    DEEPSPEED = "deepspeed"
    HOROVOD = "horovod"


class ModelSummaryMode(LightningEnum):
    """What ``weights_summary`` was."""

    TOP = "top"
    FULL = "full"


def distributed_available() -> bool:
    """Whether this process is one of several that have found each other."""
    return dist.is_available() and dist.is_initialized()


def sync_ddp(result: Tensor, group: Any = None, reduce_op: Any = None) -> Tensor:
    """``result``, reduced over the processes and written into it: their sum, or with ``"mean"`` or ``"avg"`` their mean."""
    mean = isinstance(reduce_op, str) and reduce_op.lower() in ("avg", "mean")
    if isinstance(reduce_op, str) and not mean:
        reduce_op = getattr(dist.ReduceOp, reduce_op.upper())
    dist.all_reduce(result, op=dist.ReduceOp.SUM if mean or reduce_op is None else reduce_op, group=group)
    return result.div_(dist.get_world_size(group)) if mean else result


def sync_ddp_if_available(result: Tensor, group: Any = None, reduce_op: Any = None) -> Tensor:
    """:func:`sync_ddp` where there are several processes, else ``result`` as it is."""
    return sync_ddp(result, group, reduce_op) if distributed_available() else result


def gather_all_tensors(result: Tensor, group: Any = None) -> list[Tensor]:
    """The tensor of every process, in their order; they may differ in shape. Asked by all of them."""
    from torchmetrics.utilities.distributed import gather_all_tensors as gather

    found: list[Tensor] = gather(result, group)
    return found


def all_gather_ddp_if_available(tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
    """Every process's ``tensor``, stacked; alone, ``tensor`` as it is. With ``sync_grads`` gradients flow back."""
    if not distributed_available():
        return tensor
    from torch.distributed.nn.functional import all_gather

    with torch.set_grad_enabled(sync_grads and torch.is_grad_enabled()):
        return torch.stack(list(all_gather(tensor, group if group is not None else dist.group.WORLD)))


def has_len(dataloader: Any) -> bool:
    """Whether the loader says how many batches it has."""
    return length_of(dataloader) is not None


def detect_nan_parameters(model: nn.Module) -> None:
    """Raises :class:`NonFiniteLoss` that names the first parameter that is not finite."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NonFiniteLoss(f"{name} has values that are NaN or infinite.")


def print_nan_gradients(model: nn.Module) -> None:
    """Name the parameters whose gradients have values that are NaN."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and torch.isnan(parameter.grad.float()).any():
            print(f"{name}: the gradient has NaN.")


def metrics_to_scalars(metrics: Any) -> Any:
    """The same nest, with numbers in place of tensors of one element."""

    def number(value: Tensor) -> float | int:
        if value.numel() != 1:
            raise InvalidType("metrics", value, "tensors of one element")
        return value.item()

    return tree_map(metrics, Tensor, number)


def optimizers_to_device(optimizers: list[Optimizer], device: Any) -> None:
    """Move what the optimizers keep of each parameter."""
    for optimizer in optimizers:
        optimizer_to_device(optimizer, device)


def optimizer_to_device(optimizer: Optimizer, device: Any) -> None:
    """Move what the optimizer keeps of each parameter."""
    for parameter, kept in optimizer.state.items():
        optimizer.state[parameter] = move_data_to_device(kept, torch.device(device))


def pick_multiple_gpus(num_gpus: int = -1) -> list[int]:
    """The numbers of so many CUDA devices that may be used; of all of them for -1."""
    return find_usable_cuda_devices(num_gpus)


def pick_single_gpu(exclude_gpus: Sequence[int] = ()) -> int:
    """The number of a CUDA device that may be used and is not excluded. Raises :class:`DeviceUnavailable` where there is none."""
    left = [number for number in find_usable_cuda_devices(-1) if number not in exclude_gpus]
    if not left:
        raise DeviceUnavailable(f"No CUDA device is left beside those that were excluded: {list(exclude_gpus)}.")
    return left[0]


def str_to_bool(val: str) -> bool:
    """Raises :class:`InvalidOption` for a text that says neither yes nor no."""
    answer = str_to_bool_or_str(val)
    if isinstance(answer, str):
        raise InvalidOption("val", val, "'yes', 'true', 'on', '1' or their opposites")
    return answer


def str_to_bool_or_str(val: str) -> bool | str:
    """``val`` as yes or no where it says so, else as it is."""
    word = val.lower()
    if word in ("y", "yes", "t", "true", "on", "1"):
        return True
    return False if word in ("n", "no", "f", "false", "off", "0") else val
