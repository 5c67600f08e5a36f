"""From the Trainer's ``strategy``, ``accelerator``, ``devices``, ``precision`` and ``plugins`` to one strategy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from leyden.checked import check_count
from leyden.checkpoint.files import CheckpointIO
from leyden.devices.accelerators import Accelerator, choose_device, choose_devices
from leyden.devices.precision import Precision, make_precision
from leyden.devices.registry import Strategies
from leyden.distributed.beside import Beside
from leyden.distributed.environment import ClusterEnvironment, detect_environment, require_one_process
from leyden.distributed.group import Group, have_met
from leyden.distributed.launchers.lifeline import runs_again
from leyden.distributed.layer_sync import LayerSync, TorchSyncBatchNorm
from leyden.distributed.signals import in_notebook
from leyden.distributed.vigilance import Vigilance
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, Unsupported, did_you_mean
from leyden.strategies.base import Strategy
from leyden.strategies.ddp import DDPStrategy
from leyden.strategies.fsdp import FSDPStrategy
from leyden.strategies.parallel import ParallelStrategy
from leyden.strategies.single import SingleDeviceStrategy

_LAUNCHES = {"ddp": "popen", "ddp_spawn": "spawn", "ddp_fork": "fork", "ddp_notebook": "fork"}
_DDP: dict[str, dict[str, Any]] = {
    **{name: {"start_method": start} for name, start in _LAUNCHES.items()},
    **{
        f"{name}_find_unused_parameters_{str(found).lower()}": {"start_method": start, "find_unused_parameters": found}
        for name, start in _LAUNCHES.items()
        for found in (False, True)
    },
}
_FSDP: dict[str, dict[str, Any]] = {"fsdp": {}, "fsdp_cpu_offload": {"cpu_offload": True}}
_PARALLEL: dict[str, tuple[type[ParallelStrategy], dict[str, Any]]] = {
    **{name: (DDPStrategy, options) for name, options in _DDP.items()},
    **{name: (FSDPStrategy, options) for name, options in _FSDP.items()},
}
"""Those of several processes. A new one is its file and a row here."""
_REFUSED = {
    "dp": "It was removed from Lightning too.",
    "ddp2": "It was removed from Lightning too.",
    **dict.fromkeys(
        (
            "deepspeed",
            *(f"deepspeed_stage_{stage}" for stage in ("1", "2", "2_offload", "3", "3_offload", "3_offload_nvme")),
        ),
        "DeepSpeed is not wrapped.",
    ),
    **dict.fromkeys(
        ("single_xla", "single_tpu", "xla", "xla_debug", "hpu_parallel", "hpu_single"), "It needs hardware of its own."
    ),
}
STRATEGIES = ("auto", "single_device", *_PARALLEL)
"""Every strategy that can be asked for by name."""

StrategyRegistry = Strategies()
"""What the Trainer's ``strategy`` may be asked for by name, but for ``"auto"``."""
StrategyRegistry.register("single_device", SingleDeviceStrategy, description="One process, one device.")
for _name, (_class, _options) in _PARALLEL.items():
    StrategyRegistry.register(_name, _class, description=str(_class.__doc__).splitlines()[0], **_options)

Plugin = Precision | CheckpointIO | ClusterEnvironment | LayerSync
"""What ``Trainer(plugins=...)`` may hold."""
T = TypeVar("T")


def choose_strategy(
    strategy: str | Strategy | None = "auto",
    accelerator: str | Accelerator | None = "auto",
    devices: Any = "auto",
    num_nodes: int = 1,
    precision: str | int | None = None,
    plugins: Any = None,
    shares: bool = True,
    vigilance: Vigilance | None = None,
    sync_batchnorm: bool = False,
) -> Strategy:
    """The strategy that these keywords of the Trainer ask for, complete.

    Raises :class:`InvalidOption`, :class:`InvalidType`, :class:`ConflictingOptions`, :class:`DeviceUnavailable`, and
    :class:`Unsupported` for what is known and not offered.
    """
    given = _plugins(plugins)
    if isinstance(strategy, Strategy):
        strategy.leyden_forget()
    rules = _only([plugin for plugin in given if isinstance(plugin, Precision)], "Precision")
    storage = _only([plugin for plugin in given if isinstance(plugin, CheckpointIO)], "CheckpointIO")
    environment = (
        _only([plugin for plugin in given if isinstance(plugin, ClusterEnvironment)], "ClusterEnvironment")
        or getattr(strategy, "cluster_environment", None)
        or detect_environment()
    )
    if rules is not None and precision is not None:
        raise ConflictingOptions(f"precision={precision!r} and plugins={rules!r} were both given. Leave one of them out.")
    if not isinstance(strategy, Strategy):
        _check_name(strategy)
    check_count("num_nodes", num_nodes, 1, "a number of nodes >= 1")
    if isinstance(strategy, str) and strategy in StrategyRegistry and strategy not in STRATEGIES:
        strategy = _registered(strategy)
    adopts = devices in (None, "auto") and environment.creates_processes_externally and not runs_again()
    if num_nodes == 1 and adopts:
        num_nodes = environment.leyden_nodes()
    size = environment.world_size()
    completed = _made(strategy, accelerator, devices, num_nodes, precision, rules, storage, environment, shares)
    if not isinstance(completed.processes, Beside):
        environment.validate_settings(num_devices=completed.num_devices, num_nodes=num_nodes)
    if isinstance(completed.processes, Group):
        completed.processes.vigilance = vigilance or Vigilance()
    if isinstance(completed, ParallelStrategy):
        _check_size(completed, environment, size)
    completed.leyden_environment = environment
    layers = _only([plugin for plugin in given if isinstance(plugin, LayerSync)], "LayerSync")
    completed.leyden_layer_sync = TorchSyncBatchNorm() if layers is None and sync_batchnorm is True else layers
    return completed


def _made(
    strategy: str | Strategy | None,
    accelerator: str | Accelerator | None,
    devices: Any,
    num_nodes: int,
    precision: str | int | None,
    rules: Precision | None,
    storage: CheckpointIO | None,
    environment: ClusterEnvironment,
    shares: bool,
) -> Strategy:
    if isinstance(strategy, ParallelStrategy):
        own = strategy.leyden_devices
        kind, found = choose_devices(accelerator, devices if devices not in (None, "auto") or not own else "auto")
        if own and devices not in (None, "auto") and len(found) != len(own):
            raise ConflictingOptions(
                f"devices={devices!r} asks for {len(found)} devices, and strategy={strategy!r} already brings {len(own)} "
                f"(parallel_devices). Leave one of them out."
            )
        if devices in (None, "auto") and environment.creates_processes_externally:
            found = _as_started(kind, found, max(1, environment.world_size() // num_nodes))
        strategy.leyden_complete(accelerator=kind, precision=rules, checkpoint_io=storage)
        return _assembled(strategy, found, num_nodes, environment, precision, shares)
    if isinstance(strategy, Strategy):
        return _beside(_completed(strategy, accelerator, devices, precision, rules, storage), environment, num_nodes)
    kind, found = choose_devices(accelerator, devices)
    name = "auto" if strategy is None else strategy.lower()
    adopts = devices in (None, "auto") and environment.creates_processes_externally and not runs_again()
    if adopts and name != "single_device":  # as many processes as somebody has started
        found = _as_started(kind, found, max(1, environment.world_size() // num_nodes))
    alone = len(found) * num_nodes == 1 and (_may_be_beside(environment) or environment.world_size() == 1)
    if name == "auto" and not alone:
        name = "ddp_notebook" if in_notebook() or hasattr(sys, "ps1") else "ddp"  # there is no script to be run again
    if name in _PARALLEL:
        kept, options = _PARALLEL[name]
        made = kept(accelerator=kind, checkpoint_io=storage, precision_plugin=rules, **options)
        return _assembled(made, found, num_nodes, environment, precision, shares)
    if len(found) > 1:
        raise ConflictingOptions(f"devices={devices!r} asks for {len(found)} devices, and strategy={strategy!r} uses one.")
    device = found[0]
    single = SingleDeviceStrategy(device, kind, storage, make_precision(precision, device) if rules is None else rules)
    return _beside(single, environment, num_nodes)


def _beside(single: Strategy, environment: ClusterEnvironment, nodes: int) -> Strategy:
    """A strategy of one process, where others may run the same script. Raises :class:`Unsupported` where all were meant."""
    size = environment.world_size()
    if size > 1 and nodes == 1 and _may_be_beside(environment) and single.processes.alone:
        single.processes = Beside(environment.global_rank(), size)
    else:
        require_one_process(environment, nodes)
    return single


def _may_be_beside(environment: ClusterEnvironment) -> bool:
    """Whether one device is asked for knowingly, in a script that runs in several processes."""
    return environment.leyden_mixes or have_met()


def _as_started(kind: Accelerator, found: list[torch.device], count: int) -> list[torch.device]:
    """Devices for as many processes as somebody has started on this machine."""
    if found[0].type == "cuda" and torch.cuda.device_count() >= count:
        return kind.get_parallel_devices(kind.parse_devices(count))
    return found[:1] * count  # each sees the one that is its own


def _assembled(
    strategy: ParallelStrategy,
    devices: list[torch.device],
    nodes: int,
    environment: ClusterEnvironment,
    precision: str | int | None,
    shares: bool,
) -> Strategy:
    """``strategy`` with what the Trainer was asked for, and with its processes."""
    if precision is not None:
        strategy.leyden_complete(precision=strategy.leyden_make_precision(precision, devices[0]))
    strategy.leyden_assemble(devices, nodes, environment, shares)
    return strategy


def _check_size(strategy: ParallelStrategy, environment: ClusterEnvironment, size: int) -> None:
    """Raise :class:`ConflictingOptions` where another number of processes was started (``size``) than is asked for."""
    if size in (strategy.world_size, *(() if environment.creates_processes_externally else (1,))):
        return
    count, nodes = len(strategy.parallel_devices), strategy.num_nodes
    if runs_again():
        raise ConflictingOptions(
            f"devices={count} x num_nodes={nodes} asks for {strategy.world_size} processes, and this script runs in {size}: they "
            f"were started for its first Trainer. Ask for as many in each Trainer (or devices=1), or use strategy='ddp_spawn'."
        )
    raise ConflictingOptions(
        f"{environment!r} started {size} processes, and devices={count} x "
        f"num_nodes={nodes} asks for {strategy.world_size}. Let both say the same number."
    )


def _completed(
    strategy: Strategy,
    accelerator: str | Accelerator | None,
    devices: Any,
    precision: str | int | None,
    rules: Precision | None,
    storage: CheckpointIO | None,
) -> Strategy:
    device = strategy.root_device
    if not (accelerator in (None, "auto") and devices in (None, "auto")):
        _, asked = choose_device(device.type if accelerator in (None, "auto") else accelerator, devices)
        counted = isinstance(devices, int) or devices in (None, "auto")
        if asked.type != device.type or (not counted and asked.index != device.index):
            raise ConflictingOptions(
                f"accelerator={accelerator!r}, devices={devices!r} asks for {str(asked)!r}, but strategy={strategy!r} "
                f"already brings {str(device)!r}. Leave one of them out."
            )
    if precision is not None:
        rules = make_precision(precision, device)
    strategy.leyden_complete(
        accelerator=accelerator if isinstance(accelerator, Accelerator) else None, precision=rules, checkpoint_io=storage
    )
    return strategy


def _registered(name: str) -> Strategy:
    made = StrategyRegistry.get(name)
    if not isinstance(made, Strategy):
        raise InvalidType("strategy", made, f"a Strategy, which {name!r} was registered for")
    return made


def _check_name(strategy: object) -> None:
    known = tuple(dict.fromkeys((*STRATEGIES, *StrategyRegistry)))
    expected = "one of " + ", ".join(repr(name) for name in known) + ", or a Strategy"
    if strategy is None:
        return
    if not isinstance(strategy, str):
        raise InvalidType("strategy", strategy, expected)
    name = strategy.lower()
    if name in STRATEGIES or strategy in StrategyRegistry:
        return
    if name in _REFUSED:
        raise Unsupported(f"strategy={strategy!r} is not offered. {_REFUSED[name]} Use strategy='auto' with devices=1.")
    raise InvalidOption("strategy", strategy, expected, did_you_mean(name, known).strip())


def _plugins(plugins: Any) -> list[Any]:
    expected = "a Precision, a CheckpointIO, a ClusterEnvironment or a LayerSync, or a list of them"
    given = (
        [] if plugins is None else list(plugins) if isinstance(plugins, Sequence) and not isinstance(plugins, str) else [plugins]
    )
    for plugin in given:
        if isinstance(plugin, type):
            raise InvalidType("plugins", plugin, expected, f"Pass an instance: {plugin.__name__}(...).")
        if not isinstance(plugin, Plugin):
            raise InvalidType("plugins", plugin, expected)
    return given


def _only(found: list[T], kind: str) -> T | None:
    if len(found) > 1:
        raise ConflictingOptions(f"plugins has {len(found)} of the kind {kind}: {found!r}. Leave one of them in.")
    return found[0] if found else None
