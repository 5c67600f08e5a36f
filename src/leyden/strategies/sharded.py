"""What strategies share whose processes hold shards of the parameters."""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from leyden.devices.precision import Precision, make_precision
from leyden.distributed.group import Launcher
from leyden.distributed.processes import Alone
from leyden.errors import MisconfigurationException, Unsupported
from leyden.strategies import shards
from leyden.strategies.first_reads import FirstReads
from leyden.strategies.older_torch import check_device, parameters_of, reshard_after_forward
from leyden.strategies.overflow import heed_overflow
from leyden.strategies.parallel import ParallelStrategy
from leyden.strategies.same_module import agree_on_module
from leyden.strategies.skips import SkippedByAll, may_skip
from leyden.strategies.storage import Storage, storage_of

_TRAINS_NOT = {
    "Adafactor": "It looks at whole rows and columns. Use AdamW.",
    "LBFGS": "It flattens all parameters into one vector. Use AdamW.",
}


class ShardedStrategy(ParallelStrategy):
    """Processes that hold shards of the module's parameters, as :class:`torch.distributed.tensor.DTensor`.

    A checkpoint is one file in the layout of every other strategy: the shards are put together tensor by tensor on the first
    process, which alone writes and reads it. With a :class:`ShardedCheckpointIO` it is a folder, into which each writes its own.
    """

    holds_whole_parameters = False
    _mesh: DeviceMesh | None = None
    _units: Sequence[Any] = ()
    """The :class:`torch.distributed.fsdp.FSDPModule` in the module."""
    _defers = False
    """Whether gradients wait whole, and unexchanged, for the end of a window of batches."""
    _exchanges = True
    """Whether the running batch's backward exchanges gradients."""
    _agreed_to_skip = False
    """Whether all processes have said that they skip the running batch."""
    _unshared = False
    """Whether all parameters are whole, as some process has no more batches to evaluate, and takes part in no exchange."""

    def leyden_write_shards(self) -> None:
        """Let checkpoints be folders, unless a ``checkpoint_io`` was given, which says what they are."""
        if self._checkpoint_io is None:
            from leyden.checkpoint.sharded import ShardedCheckpointIO

            self._checkpoint_io = ShardedCheckpointIO()

    def leyden_assemble(self, *args: Any, **kwargs: Any) -> None:
        super().leyden_assemble(*args, **kwargs)
        self._mesh = None  # of the processes of an earlier Trainer

    def leyden_launcher(self) -> Launcher:
        from leyden.distributed.launchers.script import Script

        return Script()

    def leyden_make_precision(self, precision: str | int | None, device: torch.device) -> Precision:
        """The number formats for the Trainer's ``precision``."""
        from leyden.devices.fsdp_precision import FSDPPrecision

        made = make_precision(precision, device)
        return FSDPPrecision.leyden_on(made.precision, device.type) if made.precision.endswith("-mixed") else made

    @property
    def device_mesh(self) -> DeviceMesh | None:
        """The processes as a mesh; ``None`` before they have begun."""
        return self._mesh

    @abstractmethod
    def leyden_make_mesh(self) -> DeviceMesh:
        """The mesh, once the processes have begun."""

    @abstractmethod
    def leyden_divide(self, module: nn.Module) -> None:
        """Shard what is whole and is to be sharded, in place."""

    # -- the module
    def setup_environment(self) -> None:
        super().setup_environment()
        if self._device.type == "cpu" and self.precision.precision == "16-true":
            raise Unsupported(
                f"precision='16-true' was asked for, and {type(self).__name__} cannot train float16 parameters on CPUs. Use "
                f"precision='bf16-true' or 'bf16-mixed'."
            )
        if self._mesh is None:
            self._mesh = self.leyden_make_mesh()
        scaler = getattr(self.precision, "scaler", None)
        if scaler is not None:
            heed_overflow(scaler, self.processes)

    def setup(self, module: Any) -> nn.Module:
        converted = self.leyden_converted(module)
        agree_on_module(self.processes, converted)
        self.leyden_divide(converted)
        self.leyden_make_alike(converted)
        self._find_units(converted)
        if self._units:
            check_device(self._device)
        for unit in self._units:
            if hasattr(unit, "reset_iter_state") and _is_root(unit):  # an earlier verb may have ended inside a step
                unit.reset_iter_state()
        return converted

    def _find_units(self, module: nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule

        self._units = [each for each in module.modules() if isinstance(each, FSDPModule)]
        # those of tensor parallel layers are exchanged at each batch
        self._defers = not any(parameter.is_dtensor for parameter in parameters_of(self._units))
        for unit in self._units:
            _name_plainly(type(unit))

    # -- what training adds to it
    def leyden_unowned(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        return [each for each in parameters if not shards.is_sharded(each)]

    def leyden_beside(self) -> Iterable[Tensor]:
        return () if self._module is None else shards.plain_tensors(self._module)

    def _was_given(self) -> None:
        if self._module is not None:
            self._find_units(self._module)

    @property
    def leyden_exchanging(self) -> bool:
        return self._exchanges

    def leyden_make_alike(self, module: nn.Module) -> None:
        """Put what is whole in ``module`` on this process's device, with the values of the first process."""
        unfilled = list(shards.fill(module, self._device))
        if unfilled:
            raise MisconfigurationException(
                f"{', '.join(unfilled)} was made on the meta device and has no reset_parameters(), which would give it values. "
                f"Define it, or make it on a device."
            )
        tensors = list(shards.plain_tensors(module))
        for tensor in tensors:
            tensor.data = tensor.data.to(self._device)
        if not self.processes.alone:
            shards.synchronise(tensors)

    def teardown(self) -> None:
        self.leyden_reshard()
        self._unshared = False
        self.accelerator.teardown()  # the module stays in shards, where it is: another verb may take it up

    def leyden_reshard(self) -> None:
        for unit in self._units:
            unit.reshard()

    # -- a step
    def _after_a_look(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """``step``, before which the strategy looks at what is trained by now."""

        def looked(*args: Any) -> Any:
            self.leyden_keep_up()
            return step(*args)

        return looked

    def leyden_route(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        module = self._module
        assert module is not None
        if any(
            unit is module for unit in self._units
        ):  # its parameters are whole inside the step, and the step's loss leads backward to them
            from torch.distributed.fsdp import register_fsdp_forward_method

            entered = f"leyden_{name}"
            vars(module)[entered] = step
            register_fsdp_forward_method(module, entered)
            step = vars(module).pop(entered)
        if self.processes.alone:
            return step
        if name == "training_step":
            self.leyden_see_optimizers()
            step = self._after_a_look(step)
        if not self._units:
            return step
        if name == "training_step":
            skips = getattr(module, "automatic_optimization", True) and may_skip(module)
            return SkippedByAll(self.processes, step, self._skipped) if skips else step

        def evaluated(*args: Any) -> Any:
            self._agree_on_batch(True)
            return step(*args)

        return evaluated

    def leyden_ended(self) -> None:
        if not self._units:
            return
        if not self.processes.alone:
            self._agree_on_batch(False)
        self.leyden_reshard()  # callbacks may exchange weights between two passes, and the module's parameters are the shards
        if self._unshared:
            self._unshared = False
            root: Any = self._module
            for unit in self._units:
                reshard_after_forward(unit, self.leyden_reshards and unit is not root)

    leyden_reshards = True
    """Whether parameters are given back after each forward."""

    def _agree_on_batch(self, has_one: bool) -> None:
        """Before each batch of an evaluation, and after the last: as soon as some process has none, parameters are made whole.

        Those who have more go on without the others then: a forward exchanges nothing.
        """
        if self._unshared:
            return
        left = int(self.processes.all_reduce(torch.tensor(int(has_one))))
        if 0 < left < self.processes.world:
            self._unshared = True
            for unit in self._units:
                unit.unshard()
                reshard_after_forward(unit, False)

    # -- a window of batches
    def leyden_accumulating(self) -> AbstractContextManager[Any]:
        return self._unexchanged() if self._defers else nullcontext()

    @contextmanager
    def _unexchanged(self) -> Iterator[None]:
        """Gradients stay whole inside FSDP, as this process computed them; ``parameter.grad`` is ``None``."""
        self._exchange(False)
        try:
            yield
        finally:
            self._exchange(True)

    def _exchange(self, exchanges: bool) -> None:
        self._exchanges = exchanges
        for unit in self._units:
            unit.set_requires_gradient_sync(exchanges, recurse=False)

    def _waiting(self) -> Iterator[tuple[Any, Tensor]]:
        """FSDP's parameters with the gradients that it has not exchanged."""
        for parameter in parameters_of(self._units):
            found = parameter.unsharded_accumulated_grad
            if found is None and hasattr(parameter, "_unsharded_param"):
                found = parameter._unsharded_param.grad
            if found is not None:
                yield parameter, found

    def leyden_average(self, parameters: Sequence[Tensor]) -> None:
        if self._unowned is not None:
            self._unowned.average()
        waiting = list(self._waiting())
        if not waiting:
            return
        packed = torch.cat([found.reshape(-1) for _, found in waiting])
        parts = self.processes.all_reduce(packed).div_(self.processes.world).split([found.numel() for _, found in waiting])
        for (each, found), part in zip(waiting, parts, strict=True):
            _forget(each)
            parameter = each.sharded_param
            shard = shards.cut(part.view_as(found).to(parameter.dtype), parameter)
            parameter.grad = shard if parameter.grad is None else parameter.grad + shard

    def leyden_set_aside(self) -> Callable[[], None]:
        waiting = list(self._waiting())
        for parameter, _ in waiting:
            _forget(parameter)

        def bring_back() -> None:
            for parameter in parameters_of(self._units):
                _forget(parameter)
            for parameter, gradient in waiting:
                parameter.unsharded_accumulated_grad = gradient

        return bring_back

    def leyden_own(self, kept: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return shards.own_of(kept, self.processes, self.leyden_peers, in_shards=True)

    def leyden_take_gradients(self, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
        names = {id(parameter): name for name, parameter in parameters.items()}
        waiting = {names[id(each.sharded_param)]: gradient for each, gradient in self._waiting()}
        there = {name: each.grad for name, each in parameters.items() if each.grad is not None}
        waiting.update({name: gradient for name, gradient in there.items() if not shards.is_sharded(gradient)})
        sharded = {
            name: shards.laid_as(gradient, parameters[name]) for name, gradient in there.items() if shards.is_sharded(gradient)
        }
        places = {name: shards.place_of(gradient) for name, gradient in sharded.items()}
        return {"gradients": waiting, "shards": {name: shards.local(each) for name, each in sharded.items()}, "places": places}

    def leyden_put_gradients(self, parameters: Mapping[str, Tensor], state: Mapping[str, Any], exchanged: bool) -> None:
        waits = self._defers and (not exchanged or "shards" in state)  # with these, they waited in FSDP
        mine = {id(each.sharded_param): each for each in parameters_of(self._units)} if waits else {}
        for name, gradient in state["gradients"].items():
            parameter: Any = parameters.get(name)
            if parameter is None:
                continue
            if not shards.is_sharded(parameter):
                parameter.grad = gradient.to(parameter)
            elif id(parameter) in mine:
                mine[id(parameter)].unsharded_accumulated_grad = gradient.to(self._device)
            else:
                mean = self.processes.all_reduce(gradient.to(self._device)) / self.processes.world
                parameter.grad = shards.cut(mean.to(parameter.dtype), parameter)
        for name, shard in state.get("shards", {}).items():
            if name in parameters:
                parameters[name].grad = shards.shard_like(shard, parameters[name])

    def _skipped(self) -> None:
        """All processes have skipped the batch, whose backward would have brought the window's exchange."""
        self._agreed_to_skip = True
        self.leyden_reshard()
        if self._exchanges:
            self.leyden_average(())

    def leyden_no_loss(self, progress: Any, optimizer: Any, zero: Any = None, entered: bool = True) -> None:
        if not self._agreed_to_skip and not self.processes.alone:
            super().leyden_no_loss(progress, optimizer, zero, entered)
            self._skipped()
        self._agreed_to_skip = False

    def leyden_expect_backward(self, loss: Tensor) -> None:
        if self._exchanges:
            super().leyden_expect_backward(loss)

    def leyden_clip(self, parameters: Sequence[Tensor], value: float, by: str) -> None:
        shards.clip(parameters, value, by)

    def leyden_planned(self, plan: Any, trainer: Any) -> Any:
        planned = super().leyden_planned(plan, trainer)
        module = self._module
        if trainer is not None and module is not None:
            known = {id(parameter) for parameter in module.parameters()}
            for optimizer in planned.optimizers:
                _check_optimizer(optimizer, known, type(module).__name__)
        return planned

    # -- checkpoints
    @property
    def leyden_storage(self) -> Storage:
        if self.processes.alone:
            return super().leyden_storage
        return FirstReads(super().leyden_storage, storage_of(self.checkpoint_io, Alone()), self.processes)

    def model_state_dict(self, module: nn.Module) -> dict[str, Any]:
        self.leyden_reshard()
        if self.checkpoint_io.leyden_sharded:
            return module.state_dict()
        first, state = self.processes.is_first, module.state_dict()
        whole = _renewed(state, lambda name, value: shards.whole(value, keep=first))
        return whole if first else {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        whole: dict[str, Any] = self.leyden_whole(optimizer.state_dict())
        return whole

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> Any:
        module = self._module
        assert module is not None
        self.leyden_reshard()
        return module.load_state_dict(self.leyden_cut(checkpoint["state_dict"], module.state_dict()), strict=strict)

    def leyden_cut(self, state: Mapping[str, Any], like: Mapping[str, Any]) -> Mapping[str, Any]:
        arrival = shards.Arrival(state.values(), self._device)
        return _renewed(state, lambda name, value: arrival.of(value, like.get(name)))

    def leyden_whole(self, tree: Any) -> Any:
        return tree if self.checkpoint_io.leyden_sharded else shards.whole(tree, keep=self.processes.is_first)

    def load_optimizer_state(self, optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
        self.leyden_reshard()
        states: Mapping[Any, Any] = state_dict["state"]
        values = [value for state in states.values() if isinstance(state, Mapping) for value in state.values()]
        arrival = shards.Arrival(values, self._device)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        of = dict(zip(numbers, parameters, strict=False))
        cut = {
            number: {key: arrival.of(value, of.get(number)) for key, value in state.items()}
            if isinstance(state, Mapping)
            else state
            for number, state in states.items()
        }
        optimizer.load_state_dict({**state_dict, "state": cut})


def _renewed(state: Any, new: Callable[[str, Any], Any]) -> dict[str, Any]:
    """``state`` with other values, and what PyTorch notes of a module's state beside it."""
    renewed = OrderedDict((name, new(name, value)) for name, value in state.items())
    if hasattr(state, "_metadata"):
        renewed._metadata = state._metadata  # type: ignore[attr-defined]  # as torch does
    return renewed


def _forget(parameter: Any) -> None:
    """Let the gradient go that FSDP has not exchanged."""
    parameter.unsharded_accumulated_grad = None
    if hasattr(parameter, "_unsharded_param"):
        parameter._unsharded_param.grad = None


def _is_root(unit: Any) -> bool:
    return bool(getattr(unit._get_fsdp_state(), "_is_root", False))


def _name_plainly(cls: Any) -> None:
    """Let the class that PyTorch puts around a module's own be called as that: its name stands in messages and in files."""
    original = cls.__mro__[2]
    cls.__name__, cls.__qualname__, cls.__module__ = original.__name__, original.__qualname__, original.__module__


def _check_optimizer(optimizer: Any, known: set[int], module: str) -> None:
    kind = type(optimizer).__name__
    if type(optimizer).__module__.startswith("torch.optim") and kind in _TRAINS_NOT:
        raise Unsupported(f"{kind} cannot train parameters that are in shards. {_TRAINS_NOT[kind]}")
    for group in getattr(optimizer, "param_groups", ()):
        if kind == "SGD" and group.get("fused"):
            raise Unsupported("SGD(fused=True) cannot train parameters that are in shards. Leave fused out.")
        strange = [each for each in group["params"] if id(each) not in known and isinstance(each, nn.Parameter)]
        if strange and not any(shards.is_sharded(each) for each in strange):
            raise MisconfigurationException(
                f"{kind} holds {len(strange)} parameters that {module} does not have: its own were put into "
                f"shards when training began. Make the optimizer in configure_optimizers, from self.parameters()."
            )
