"""Each process holds a shard of every parameter, gradient and optimizer state: PyTorch's FSDP2 (``fully_shard``)."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from leyden.checkpoint.files import CheckpointIO
from leyden.devices.accelerators import Accelerator
from leyden.devices.precision import Precision
from leyden.distributed.environment import ClusterEnvironment
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, Unsupported
from leyden.not_offered import absent
from leyden.spelling import arguments_of, exact_arguments, unknown_argument
from leyden.strategies import shards
from leyden.strategies.older_torch import check_ignored
from leyden.strategies.sharded import ShardedStrategy

__all__ = ["FSDPStrategy"]

_PASSED_ON = ("reshard_after_forward", "shard_placement_fn", "ignored_params")
_OF_TORCH_2 = {"mesh": "device_mesh", "mp_policy": "mixed_precision", "offload_policy": "cpu_offload"}
_ALWAYS = {"use_orig_params": True, "limit_all_gathers": True, "sync_module_states": True, "forward_prefetch": False}
"""What FSDP2 always does, of what the first FSDP could be asked for."""
_NEVER = {
    "process_group": "Pass device_mesh.",
    "param_init_fn": "Give the layer a reset_parameters().",
    "device_id": "The Trainer's devices say it.",
    "backward_prefetch": "FSDP2 fetches ahead by itself.",
}
_STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_SHARD", "_HYBRID_SHARD_ZERO2")
_POLICY = "a set of module classes, a ModuleWrapPolicy, or a function as torch.distributed.fsdp.wrap has them"


@exact_arguments
class FSDPStrategy(ShardedStrategy):
    """Parameters, gradients and optimizer states in shards over the processes, by ``torch.distributed.fsdp.fully_shard``.

    Args:
        accelerator, parallel_devices, cluster_environment, checkpoint_io, precision_plugin: as for :class:`ParallelStrategy`.
        process_group_backend: of :func:`torch.distributed.init_process_group`.
        timeout: after so long without an answer an exchange fails.
        cpu_offload: keep shards in the CPU's memory between their uses. Also a ``CPUOffload`` or a ``CPUOffloadPolicy``.
        mixed_precision: a ``MixedPrecisionPolicy`` of FSDP2, or a ``MixedPrecision`` of the first FSDP, whose ``param_dtype``,
            ``reduce_dtype`` and ``cast_forward_inputs`` are heeded. Left open, the Trainer's ``precision`` says it.
        auto_wrap_policy: which modules make a unit that is gathered at once: a set of their classes, a
            ``ModuleWrapPolicy``, or a function as :mod:`torch.distributed.fsdp.wrap` has them. Left open, all is one.
        activation_checkpointing: a class of modules, or a list of them; the older name of ``activation_checkpointing_policy``.
        activation_checkpointing_policy: which modules compute their forward again in backward rather than keep its results.
        sharding_strategy: ``"FULL_SHARD"``; ``"SHARD_GRAD_OP"``, which keeps parameters whole from forward to backward; or
            ``"HYBRID_SHARD"``, which shards within a machine and replicates over machines. Also the enum ``ShardingStrategy``.
        state_dict_type: ``"full"`` writes a checkpoint as one file, ``"sharded"`` as a folder, into which each process writes.
        device_mesh: for ``"HYBRID_SHARD"``, how many times to replicate and over how many processes to shard, or such a mesh of
            two dimensions; else a mesh of one.
        **kwargs: ``reshard_after_forward``, ``shard_placement_fn``, ``ignored_params`` of ``fully_shard``; ``ignored_modules``
            and ``ignored_states`` of the first FSDP.

    Raises:
        Unsupported: for what only the first FSDP can do, ``NO_SHARD`` among it, which is what ``strategy="ddp"`` does.
    """

    strategy_name = "fsdp"

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        parallel_devices: Sequence[torch.device] | None = None,
        cluster_environment: ClusterEnvironment | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = timedelta(seconds=1800),  # it cannot be changed
        cpu_offload: Any = None,
        mixed_precision: Any = None,
        auto_wrap_policy: Any = None,
        activation_checkpointing: type[nn.Module] | list[type[nn.Module]] | None = None,
        activation_checkpointing_policy: Any = None,
        sharding_strategy: Any = "FULL_SHARD",
        state_dict_type: Literal["full", "sharded"] = "full",
        device_mesh: tuple[int, int] | DeviceMesh | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            accelerator,
            parallel_devices,
            cluster_environment,
            checkpoint_io,
            precision_plugin,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        name = str(getattr(sharding_strategy, "name", sharding_strategy)).upper()
        if name == "NO_SHARD":
            raise Unsupported(f"sharding_strategy={sharding_strategy!r} shards nothing. Use strategy='ddp', which does the same.")
        if name not in _STRATEGIES:
            raise InvalidOption("sharding_strategy", sharding_strategy, "one of " + ", ".join(map(repr, _STRATEGIES[:3])))
        self._sharding = name
        self._hybrid = "HYBRID" in name
        if state_dict_type not in ("full", "sharded"):
            raise InvalidOption("state_dict_type", state_dict_type, "'full' or 'sharded'")
        self._state_dict_type = state_dict_type
        self._offloads = _offloads(cpu_offload)
        self.mixed_precision = mixed_precision
        self._wrapped = _policy("auto_wrap_policy", auto_wrap_policy)
        if activation_checkpointing is not None and activation_checkpointing_policy is not None:
            raise ConflictingOptions(
                "activation_checkpointing and activation_checkpointing_policy were both given, and mean the same. Leave the "
                "first out."
            )
        classes = activation_checkpointing
        if classes is not None:
            activation_checkpointing_policy = set(classes if isinstance(classes, list) else [classes])
        self._recomputed = _policy("activation_checkpointing_policy", activation_checkpointing_policy)
        self._asked_mesh = device_mesh
        self._options, self._ignored = _read_options(kwargs)
        if self._ignored:
            check_ignored()
        reshards = self._options.setdefault("reshard_after_forward", False if name in ("SHARD_GRAD_OP", _STRATEGIES[3]) else None)
        self.leyden_reshards = reshards is not False
        self._check_mesh()
        if mixed_precision is not None:
            _ = self.mixed_precision_config  # it is looked at

    @classmethod
    def get_registered_strategies(cls) -> list[str]:
        """The names by which the Trainer's ``strategy`` asks for it."""
        return ["fsdp", "fsdp_cpu_offload"]

    @property
    def sharding_strategy(self) -> Any:
        """The ``torch.distributed.fsdp.ShardingStrategy`` that was asked for."""
        from torch.distributed.fsdp import ShardingStrategy

        return ShardingStrategy[self._sharding]

    @property
    def cpu_offload(self) -> Any:
        """The ``torch.distributed.fsdp.CPUOffload`` that was asked for."""
        from torch.distributed.fsdp import CPUOffload

        return CPUOffload(offload_params=self._offloads)

    @property
    def mixed_precision_config(self) -> Any:
        """The ``MixedPrecisionPolicy`` that modules are sharded with; ``None`` where everything stays as it is."""
        asked = self.mixed_precision
        if asked is None:
            return getattr(self.precision, "mixed_precision_config", None)
        from torch.distributed.fsdp import MixedPrecisionPolicy

        if isinstance(asked, MixedPrecisionPolicy):
            return asked
        names = ("param_dtype", "reduce_dtype")
        if not all(hasattr(asked, name) for name in names):
            raise InvalidType("mixed_precision", asked, "a MixedPrecisionPolicy of torch.distributed.fsdp")
        casts = asked.cast_forward_inputs or getattr(asked, "cast_root_forward_inputs", True)
        return MixedPrecisionPolicy(**{name: getattr(asked, name) for name in names}, cast_forward_inputs=casts)

    # -- the mesh
    def _check_mesh(self) -> None:
        asked = self._asked_mesh
        if asked is None or (sizes := _sizes(asked)) is None:
            return
        if len(sizes) != (2 if self._hybrid else 1):
            raise ConflictingOptions(
                f"device_mesh={asked!r} has {len(sizes)} dimensions, and sharding_strategy={self._sharding!r} takes "
                f"{'two: (replicate, shard)' if self._hybrid else 'one; two go with HYBRID_SHARD'}."
            )

    def leyden_assemble(self, *args: Any, **kwargs: Any) -> None:
        super().leyden_assemble(*args, **kwargs)
        if self._state_dict_type == "sharded":
            self.leyden_write_shards()
            if not self.checkpoint_io.leyden_sharded:
                raise ConflictingOptions(
                    f"state_dict_type='sharded' was asked for, and {self.checkpoint_io!r} writes single files. Leave one of them "
                    f"out, or pass ShardedCheckpointIO()."
                )
        asked = self._asked_mesh
        if isinstance(asked, tuple) and asked[0] * asked[-1] != self.world_size:
            raise ConflictingOptions(
                f"device_mesh={asked!r} are {asked[0] * asked[-1]} processes, and the Trainer asks for {self.world_size} "
                f"(devices x num_nodes). Let both say the same number."
            )

    def leyden_make_mesh(self) -> DeviceMesh:
        asked = self._asked_mesh
        if isinstance(asked, DeviceMesh):
            return asked
        kind = self._device.type
        if self._hybrid:
            sizes = asked if asked is not None else (self.num_nodes, self.world_size // self.num_nodes)
            return init_device_mesh(kind, sizes, mesh_dim_names=("replicate", "shard"))
        return init_device_mesh(kind, (self.world_size,), mesh_dim_names=("data_parallel",))

    # -- the module
    @contextmanager
    def tensor_init_context(self, empty_init: bool | None = None) -> Iterator[None]:
        """As of every strategy; with ``empty_init`` on the meta device: each layer gets memory and values as it is sharded."""
        with ExitStack() as stack:
            stack.enter_context(super().tensor_init_context(False))
            if empty_init:
                stack.enter_context(torch.device("meta"))
            yield

    def model_sharded_context(self) -> AbstractContextManager[Any]:
        """In ``configure_model``, ``torch.distributed.fsdp.wrap.wrap(layer)`` shards that layer."""
        from torch.distributed.fsdp.wrap import enable_wrap

        return enable_wrap(wrapper_cls=self._wrapped_by_hand)

    def _wrapped_by_hand(self, module: nn.Module, **options: Any) -> nn.Module:
        for name in options:
            raise unknown_argument("wrap()", name, [])
        self._shard(module)
        return module

    def leyden_divide(self, module: nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule

        _recompute(module, self._recomputed)
        divided = any(isinstance(each, FSDPModule) for each in module.modules())
        automatic = getattr(module, "automatic_optimization", True)
        if not divided:
            for unit in _chosen(module, self._wrapped):
                self._shard(unit)
            if not automatic:
                # backward and steps happen inside training_step: each layer that it calls is entered by itself
                for unit in list(_entered(module)):
                    self._shard(unit)
        whole = [name for name, each in module.named_parameters() if self._is_left(each)]
        if automatic and (whole or not divided):
            self._shard(module)
        elif whole:
            raise Unsupported(
                f"{type(module).__name__} has the parameter {whole[0]!r} itself, and with automatic_optimization = False only "
                f"layers are put into shards. Put it into a layer, which training_step calls."
            )

    def _is_left(self, parameter: Any) -> bool:
        return not shards.is_sharded(parameter) and id(parameter) not in {id(each) for each in self._ignored_in(None)}

    def _shard(self, module: nn.Module) -> None:
        from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard

        if isinstance(module, FSDPModule):
            return
        ignored = set(self._ignored_in(module))
        scalar = next((name for name, each in module.named_parameters() if each.ndim == 0 and each not in ignored), None)
        if scalar is not None:
            raise Unsupported(
                f"The parameter {scalar!r} of {type(module).__name__} is a single number without a dimension, which cannot be "
                f"put into shards. Give it the shape (1,), or pass it in ignored_params."
            )
        self.leyden_make_alike(module)
        options = {name: value for name, value in self._options.items() if value is not None}  # which torch 2.6 does not take
        policy = self.mixed_precision_config
        if policy is not None:
            options["mp_policy"] = policy
        if ignored:
            options["ignored_params"] = ignored
        pins = self._device.type != "cpu"
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=pins) if self._offloads else OffloadPolicy()
        fully_shard(module, mesh=self._mesh, **options)

    def _ignored_in(self, module: nn.Module | None) -> Iterator[nn.Parameter]:
        for each in self._ignored:
            yield from each.parameters() if isinstance(each, nn.Module) else [each]


# -- what was asked for
def _read_options(given: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """What goes to ``fully_shard``, and the modules and parameters that are left as they are."""
    options: dict[str, Any] = {}
    ignored: list[Any] = []
    for name, value in given.items():
        if name in ("ignored_params", "ignored_states", "ignored_modules"):
            ignored += [] if value is None else list(value)
        elif name in _PASSED_ON:
            options[name] = value
        elif name in _ALWAYS:
            if value not in (None, _ALWAYS[name]):
                raise Unsupported(f"{name}={value!r} belongs to the first FSDP, and FSDP2 has no such choice. Leave it out.")
        elif name in _NEVER:
            if value is not None:
                raise Unsupported(f"{name}={value!r} belongs to the first FSDP, and FSDP2 does not take it. {_NEVER[name]}")
        elif name in _OF_TORCH_2:
            raise ConflictingOptions(f"{name} is called {_OF_TORCH_2[name]} here: FSDPStrategy({_OF_TORCH_2[name]}=...).")
        else:
            known = [*arguments_of(FSDPStrategy.__init__), *_PASSED_ON, *_ALWAYS, "ignored_modules", "ignored_states"]
            raise unknown_argument("FSDPStrategy", name, known)
    return options, ignored


def _offloads(asked: Any) -> bool:
    if asked is None or isinstance(asked, bool):
        return bool(asked)
    if hasattr(asked, "offload_params"):
        return bool(asked.offload_params)
    if type(asked).__name__ in ("CPUOffloadPolicy", "OffloadPolicy"):
        return type(asked).__name__ == "CPUOffloadPolicy"
    raise InvalidType("cpu_offload", asked, "True, False, or a CPUOffloadPolicy of torch.distributed.fsdp")


def _sizes(mesh: Any) -> tuple[int, ...] | None:
    if isinstance(mesh, tuple | list):
        if not all(type(size) is int and size > 0 for size in mesh):
            raise InvalidOption("device_mesh", mesh, "two numbers of processes, as (2, 4), or a DeviceMesh")
        return tuple(mesh)
    if not hasattr(mesh, "mesh_dim_names"):
        raise InvalidType("device_mesh", mesh, "two numbers of processes, as (2, 4), or a DeviceMesh")
    return tuple(mesh.mesh.shape)


Policy = Callable[[nn.Module], Iterable[nn.Module]]


def _policy(name: str, asked: Any) -> Policy | None:
    """What finds, in a module, those that a policy of PyTorch's chooses, the inner ones first."""
    if asked is None:
        return None
    if isinstance(asked, set | frozenset | list | tuple):
        classes = tuple(asked)
        if not all(isinstance(each, type) and issubclass(each, nn.Module) for each in classes):
            raise InvalidType(name, asked, _POLICY)
        return lambda root: [each for each in _inner_first(root) if isinstance(each, classes)]
    if hasattr(asked, "_run_policy"):

        def run(root: nn.Module) -> list[nn.Module]:
            found = asked._run_policy(root, set(), {})
            return [each for each in _inner_first(root) if each in found]

        return run
    if not callable(asked) or isinstance(asked, type):
        raise InvalidType(name, asked, _POLICY)

    def ask(root: nn.Module) -> list[nn.Module]:
        chosen: list[nn.Module] = []
        _ask(asked, root, chosen)
        return chosen

    return ask


def _ask(policy: Callable[..., bool], module: nn.Module, chosen: list[nn.Module]) -> int:
    """Add to ``chosen`` what ``policy`` wants wrapped in ``module``, itself too; returns how many numbers that takes care of."""
    size = sum(parameter.numel() for parameter in module.parameters())
    if not policy(module=module, recurse=True, nonwrapped_numel=size):
        return 0
    taken = sum(_ask(policy, child, chosen) for child in module.children())
    if not policy(module=module, recurse=False, nonwrapped_numel=size - taken):
        return taken
    chosen.append(module)
    return size


def _inner_first(module: nn.Module) -> list[nn.Module]:
    return list(module.modules())[::-1]


def _chosen(root: nn.Module, policy: Policy | None) -> Iterator[nn.Module]:
    for module in () if policy is None else policy(root):
        if module is not root and _has_forward(module) and any(True for _ in module.parameters()):
            yield module


def _entered(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost layers in ``module`` that can be called, and have parameters."""
    for child in module.children():
        if not any(True for _ in child.parameters()):
            continue
        if _has_forward(child):
            yield child
        else:
            yield from _entered(child)


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _recompute(root: nn.Module, policy: Policy | None) -> None:
    """Let the modules that ``policy`` chooses compute their forward again in backward."""
    from torch.utils.checkpoint import checkpoint

    for module in _chosen(root, policy):
        if not hasattr(module.forward, "leyden_recomputes"):
            again = functools.partial(checkpoint, module.forward, use_reentrant=False)
            functools.update_wrapper(again, module.forward)
            again.leyden_recomputes = True  # type: ignore[attr-defined]  # a mark
            module.forward = again  # hooks stay around it, and names as they are


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.strategies")
