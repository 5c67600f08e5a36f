"""From the Trainer's ``strategy``, ``accelerator``, ``devices``, ``precision`` and ``plugins`` to one strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from leyden.checkpoint.files import CheckpointIO
from leyden.devices.accelerators import Accelerator, choose_device
from leyden.devices.precision import Precision, make_precision
from leyden.devices.registry import Strategies
from leyden.distributed.environment import ClusterEnvironment, detect_environment, require_one_process
from leyden.distributed.layer_sync import LayerSync
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, Unsupported, did_you_mean
from leyden.strategies.base import Strategy
from leyden.strategies.single import SingleDeviceStrategy

_LAUNCHES = ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")
_LATER = (
    *_LAUNCHES,
    *(f"{launch}_find_unused_parameters_{found}" for launch in _LAUNCHES for found in ("false", "true")),
    "fsdp",
    "fsdp_cpu_offload",
)
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
STRATEGIES = ("auto", "single_device")
"""Every strategy that can be asked for by name."""

StrategyRegistry = Strategies()
"""What the Trainer's ``strategy`` may be asked for by name, but for ``"auto"``."""
StrategyRegistry.register("single_device", SingleDeviceStrategy, description="One process, one device.")

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
) -> Strategy:
    """The strategy that these keywords of the Trainer ask for, complete.

    Raises :class:`InvalidOption`, :class:`InvalidType`, :class:`ConflictingOptions`, :class:`DeviceUnavailable`, and
    :class:`Unsupported` for what is known and not offered.
    """
    given = _plugins(plugins)
    rules = _only([plugin for plugin in given if isinstance(plugin, Precision)], "Precision")
    storage = _only([plugin for plugin in given if isinstance(plugin, CheckpointIO)], "CheckpointIO")
    environment = (
        _only([plugin for plugin in given if isinstance(plugin, ClusterEnvironment)], "ClusterEnvironment")
        or detect_environment()
    )
    if rules is not None and precision is not None:
        raise ConflictingOptions(f"precision={precision!r} and plugins={rules!r} were both given. Leave one of them out.")
    if not isinstance(strategy, Strategy):
        _check_name(strategy)
    require_one_process(environment, num_nodes)
    if isinstance(strategy, str) and strategy in StrategyRegistry and strategy not in STRATEGIES:
        strategy = _registered(strategy)
    if isinstance(strategy, Strategy):
        completed = _completed(strategy, accelerator, devices, precision, rules, storage)
    else:
        kind, chosen = choose_device(accelerator, devices)
        device = chosen[0]
        completed = SingleDeviceStrategy(device, kind, storage, make_precision(precision, device) if rules is None else rules)
    environment.validate_settings(num_devices=1, num_nodes=num_nodes)
    completed.leyden_environment = environment
    completed.leyden_layer_sync = _only([plugin for plugin in given if isinstance(plugin, LayerSync)], "LayerSync")
    return completed


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
        _, chosen = choose_device(device.type if accelerator in (None, "auto") else accelerator, devices)
        counted = isinstance(devices, int) or devices in (None, "auto")
        if chosen[0].type != device.type or (not counted and chosen[0].index != device.index):
            raise ConflictingOptions(
                f"accelerator={accelerator!r}, devices={devices!r} asks for {str(chosen[0])!r}, but strategy={strategy!r} "
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
    if name in _LATER:
        raise Unsupported(
            f"strategy={strategy!r} trains in several processes, which is not offered yet. Use strategy='auto' with devices=1."
        )
    if name in _REFUSED:
        raise Unsupported(f"strategy={strategy!r} is not offered. {_REFUSED[name]} Use strategy='auto' with devices=1.")
    raise InvalidOption("strategy", strategy, expected, did_you_mean(name, (*known, *_LATER)).strip())


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
