"""The whole module in every process, gradients averaged: torch's DistributedDataParallel."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.utils import _sync_module_states
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from leyden.checked import check_count
from leyden.checkpoint.files import CheckpointIO
from leyden.devices.accelerators import Accelerator
from leyden.devices.precision import Precision
from leyden.distributed.environment import ClusterEnvironment
from leyden.distributed.group import Launcher
from leyden.distributed.talks import Talks
from leyden.errors import ConflictingOptions, InvalidOption, warn_user
from leyden.not_offered import absent
from leyden.spelling import exact_arguments, unknown_argument
from leyden.strategies.averaging import Averaging
from leyden.strategies.buckets import laid_out, layout_of, settle
from leyden.strategies.comm_hook import CommHook, alike_on_all
from leyden.strategies.ddp_arguments import check_argument, index_of
from leyden.strategies.known import Known
from leyden.strategies.mean_gradients import average_gradients
from leyden.strategies.parallel import ParallelStrategy
from leyden.strategies.same_module import agree_on_module
from leyden.strategies.skips import Skips, may_skip
from leyden.strategies.unowned import met

__all__ = ["DDPStrategy"]
_OURS = ("module", "device_ids")  # what is said by the Trainer
_MOST_AT_ONCE = 250 * 2**20  # bytes, as DistributedDataParallel has it
STARTS = ("popen", "spawn", "fork", "forkserver")


@exact_arguments
class DDPStrategy(ParallelStrategy):
    """Each process has the whole module and its share of the data; gradients are averaged while they are computed.

    Args:
        accelerator, parallel_devices, cluster_environment, checkpoint_io, precision_plugin: as for :class:`ParallelStrategy`.
        ddp_comm_state, ddp_comm_hook, ddp_comm_wrapper: how gradients are exchanged, on CPUs too: see
            :meth:`torch.nn.parallel.DistributedDataParallel.register_comm_hook`. Checkpoints hold the state.
        model_averaging_period: every so many steps parameters are averaged, once torch's ``PostLocalSGDState``, which is then
            the ``ddp_comm_state``, has let each machine (or group of processes) go its own way.
        process_group_backend: of :func:`torch.distributed.init_process_group`: ``"gloo"``, ``"nccl"``,
            ``"cpu:gloo,cuda:nccl"`` ...
        timeout: after so long without an answer an exchange fails.
        start_method: ``"popen"`` runs the script again for every process; ``"spawn"``, ``"fork"`` and ``"forkserver"`` are
            :mod:`multiprocessing`'s.
        **kwargs: of :class:`torch.nn.parallel.DistributedDataParallel`: ``find_unused_parameters``, ``static_graph``,
            ``gradient_as_bucket_view``, ``bucket_cap_mb`` ...
    """

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        parallel_devices: Sequence[torch.device] | None = None,
        cluster_environment: ClusterEnvironment | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        ddp_comm_state: object | None = None,
        ddp_comm_hook: Callable[..., Any] | None = None,
        ddp_comm_wrapper: Callable[..., Any] | None = None,
        model_averaging_period: int | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
        **kwargs: Any,
    ) -> None:
        parameters = inspect.signature(DistributedDataParallel).parameters
        of_torch = [name for name in parameters if name not in _OURS]
        for name, value in kwargs.items():
            if name not in parameters or value is not parameters[name].default:
                check_argument(name, value)
            if name not in of_torch:
                own = list(inspect.signature(type(self)).parameters)
                raise unknown_argument(type(self).__name__, name, [word for word in own if word != "kwargs"] + of_torch)
        super().__init__(
            accelerator,
            parallel_devices,
            cluster_environment,
            checkpoint_io,
            precision_plugin,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        if model_averaging_period is not None:
            check_count("model_averaging_period", model_averaging_period, 1, "a number of steps >= 1, or None")
        if start_method not in STARTS:
            raise InvalidOption("start_method", start_method, "one of " + ", ".join(map(repr, STARTS)))
        self._start_method = start_method
        self._comm = CommHook(ddp_comm_state, ddp_comm_hook, ddp_comm_wrapper)
        self._averaging = Averaging(model_averaging_period, ddp_comm_state)
        self._output_device = kwargs.pop("output_device", None)
        self._ddp_kwargs = kwargs
        self._kept: Mapping[str, Any] = {}

    strategy_name = "ddp"
    leyden_exchanges_by_name = True
    leyden_known: Known | None = None
    """What the wrapper was made for."""

    def leyden_launcher(self) -> Launcher:
        if self._start_method == "popen":
            from leyden.distributed.launchers.script import Script

            return Script()
        from leyden.distributed.launchers.multiprocess import Multiprocess

        return Multiprocess(self._start_method)

    def leyden_route(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        if name != "training_step" or self._module is None or not any(p.requires_grad for p in self._module.parameters()):
            return step
        if self._wrapper is None or self._wrapper is self._module:  # else another optimizer, or a trial, has made it
            self._wrap(self._module)
        return Wrapped(self, step)

    def _wrap(self, module: nn.Module) -> None:
        wrapped: nn.Module | None = self.configure_ddp()  # an override as Lightning has them sets self.model, and returns nothing
        self._wrapper = self._wrapper if wrapped is None else wrapped
        self.leyden_known = Known(module, self.optimizers, not getattr(self._wrapper, "find_unused_parameters", True))
        self.leyden_see_optimizers()

    def leyden_unowned(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        known = set() if self.leyden_known is None else set(map(id, self.leyden_known.parameters))
        return [each for each in parameters if id(each) not in known]

    def leyden_keep_up(self) -> None:
        """Wrap the module anew where a parameter is trained that the wrapper does not know, else each process would go its own
        way with it; or where one is frozen for whose gradient it would wait."""
        known = self.leyden_known
        if known is None or not known.is_outdated():
            super().leyden_keep_up()
        else:
            if self._unforeseen is not None:
                met(self._unforeseen, known.changes())
            self.leyden_average(known.left_behind())
            self._wrapper = None
            self._wrap(known.module)

    def leyden_entered(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """``step``, as it is entered through the wrapper."""
        if getattr(self._module, "automatic_optimization", True) or not isinstance(self._wrapper, DistributedDataParallel):
            return super().leyden_route("training_step", step)
        return ByHand(self._wrapper, step)

    def on_validation_start(self) -> None:
        """Inside a fit: all processes validate with the first one's buffers."""
        self.leyden_share_buffers()

    def leyden_share_buffers(self) -> None:
        wrapper: Any = self._wrapper
        if not isinstance(wrapper, DistributedDataParallel) or not wrapper.modules_buffers:
            return
        if getattr(wrapper, "forward_sync_buffers", wrapper.broadcast_buffers):  # the former where PyTorch has it
            wrapper._sync_buffers()  # inside a window too, where a forward would not

    def leyden_place(self, module: nn.Module) -> None:
        super().leyden_place(module)
        trainer = getattr(module, "_trainer", None)
        alone = self.processes.alone or trainer is None or trainer.leyden_fitting
        if not alone and not any(map(is_lazy, (*module.parameters(), *module.buffers()))):
            agree_on_module(self.processes, module)
            world = dist.distributed_c10d._get_default_group()
            _sync_module_states(module, world, _MOST_AT_ONCE, src=0, params_and_buffers_to_ignore=[])

    @property
    def is_distributed(self) -> bool:
        """True."""
        return True

    def determine_ddp_device_ids(self) -> list[int] | None:
        """What torch's DistributedDataParallel is given as ``device_ids``."""
        device = self.root_device
        return None if device.type == "cpu" else [device.index or 0]

    def configure_ddp(self, module: nn.Module | None = None) -> DistributedDataParallel:
        """``module``, or the one that trains, wrapped, as training enters it. It becomes :attr:`model`."""
        module = module or self._module
        assert module is not None
        agree_on_module(self.processes, module)
        devices = self.determine_ddp_device_ids()
        kept, self._kept = self._kept, {}
        self._check_arguments()
        by_hand = not getattr(module, "automatic_optimization", True)
        alike, several = self._ddp_kwargs.get("static_graph"), len(self.optimizers) > 1
        if alike and (by_hand or several):
            who = "manual optimization has" if by_hand else f"the {len(self.optimizers)} optimizers have"
            raise ConflictingOptions(
                f"static_graph=True says that all backwards are the same, and {who} any number of them, of any loss. Leave "
                f"static_graph out."
            )
        with laid_out(kept.get("buckets")):
            if several and not alike:  # a backward reaches the parameters of one of them
                options = {"find_unused_parameters": True, **self._ddp_kwargs}
                wrapped = DistributedDataParallel(module, device_ids=devices, **options)
            else:  # jsonargparse reads in this line what kwargs may be
                wrapped = DistributedDataParallel(module, device_ids=devices, **self._ddp_kwargs)
        self._comm.register(wrapped, goes_on=bool(kept))
        self._comm.load_state_dict(kept.get("hook", {}), self.root_device)
        self._averaging.begin(kept.get("averaged", 0))
        if kept.get("left_out"):
            warn_user(
                f"The checkpoint is of another number of processes: of ddp_comm_state, {', '.join(kept['left_out'])} differed "
                f"between them and begin anew."
            )
        self.model = wrapped
        return wrapped

    def _check_arguments(self) -> None:
        """Raises :class:`ConflictingOptions` where what was given for DistributedDataParallel does not fit the processes."""
        device = self._output_device
        if device is not None and index_of(device) != index_of(self.root_device):
            raise ConflictingOptions(
                f"output_device={device!r} was asked for, and this process's device is {str(self.root_device)!r}: outputs stay "
                f"where the module is. Leave output_device out."
            )
        for name in ("process_group", "device_mesh"):
            group = self._ddp_kwargs.get(name)
            size = 0 if group is None else group.size()
            if group is not None and size != self.processes.world:
                raise ConflictingOptions(
                    f"{name} is of {size} processes, and {self.processes.world} train together: gradients are exchanged among "
                    f"all of them. Leave it out; ModelParallelStrategy trains over a mesh of several dimensions."
                )

    def setup_environment(self) -> None:
        self.setup_distributed()
        super().setup_environment()

    def setup_distributed(self) -> None:
        """The processes have begun, and the module comes next. Does nothing; overrides may."""

    def leyden_stepping(self) -> Callable[..., Any]:
        return self._averaging.after(super().leyden_stepping(), self.optimizers)

    def model_state_dict(self, module: nn.Module) -> dict[str, Any]:
        if isinstance(self._wrapper, DistributedDataParallel) and self.leyden_in_verb:
            settle(self._wrapper)
        self._averaging.note_save()
        self._comm.note_save()
        return super().model_state_dict(module)

    @property
    def leyden_saves_alone(self) -> bool:
        return not self.checkpoint_io.leyden_sharded and self._left is not None and self._left.of_all() is not None

    def leyden_exchange(self) -> dict[str, Any]:
        wrapper = self._wrapper
        if not isinstance(wrapper, DistributedDataParallel):
            return {}
        return {"buckets": layout_of(wrapper), "hook": self._comm.state_dict(), "averaged": self._averaging.steps}

    def leyden_put_exchange(self, kept: Mapping[str, Any]) -> None:
        self._kept = kept

    def teardown(self) -> None:
        super().teardown()
        self._kept = {}
        if self.leyden_moves:
            self._wrapper = None  # its buckets are as large as the module

    def leyden_own(self, kept: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        own = super().leyden_own(kept)
        if len(kept) == self.processes.world or "exchange" not in kept[0]:
            return own
        alike, left_out = alike_on_all([each["exchange"] for each in kept])
        return {**own, "exchange": {**alike, "left_out": left_out}}

    def leyden_accumulating(self) -> AbstractContextManager[Any]:
        self.leyden_keep_up()  # before a window begins: else its first batch would be exchanged by itself
        wrapper = self._wrapper
        return wrapper.no_sync() if isinstance(wrapper, DistributedDataParallel) else nullcontext()

    def leyden_skips(self, talks: Talks) -> Skips | None:
        wrapper, module = self._wrapper, self._module
        if self.processes.alone or module is None or not isinstance(wrapper, DistributedDataParallel) or not may_skip(module):
            return None
        enter = self.leyden_entered(lambda: None)
        expect = lambda loss: _expect_backward(self._wrapper, loss)  # noqa: E731
        return Skips(self.processes, talks, module.parameters, expect, enter, self.leyden_backed, self.leyden_await_exchange)

    def leyden_no_loss(self, progress: Any, optimizer: Any, zero: Any = None, entered: bool = True) -> None:
        super().leyden_no_loss(progress, optimizer, zero, entered)
        wrapper = self._wrapper
        if zero is None and isinstance(wrapper, DistributedDataParallel) and wrapper.require_backward_grad_sync:
            # this batch's backward would have exchanged what its window has so far
            groups = [] if optimizer is None else optimizer.param_groups
            self.leyden_average([each for group in groups for each in group["params"] if each.requires_grad])

    def leyden_average(self, parameters: Sequence[Tensor]) -> None:
        if not self.processes.alone:
            average_gradients(self.processes, parameters)

    @property
    def leyden_exchanging(self) -> bool:
        return getattr(self._wrapper, "require_backward_grad_sync", True)

    def leyden_expect_backward(self, loss: Tensor) -> None:
        wrapper = self._wrapper
        if not isinstance(wrapper, DistributedDataParallel) or not wrapper.require_backward_grad_sync:
            return
        super().leyden_expect_backward(loss)
        wrapper.reducer._rebuild_buckets()
        wrapper.reducer.prepare_for_forward()
        _expect_backward(wrapper, loss)


def _expect_backward(wrapper: Any, loss: Tensor) -> None:
    """A backward that begins at ``loss`` comes next, outside of a forward of ``wrapper``."""
    wrapper.reducer.prepare_for_backward([loss] if wrapper.find_unused_parameters and not wrapper.static_graph else [])


class Wrapped:
    """A step through the wrapper, which is made anew when it knows nothing of what is trained by now."""

    def __init__(self, strategy: DDPStrategy, step: Callable[..., Any]) -> None:
        self.strategy, self.step = strategy, step
        self.entered: Callable[..., Any] | None = None
        self.known: Known | None = None

    def __call__(self, *args: Any) -> Any:
        strategy = self.strategy
        strategy.leyden_keep_up()
        if self.entered is None or self.known is not strategy.leyden_known:
            self.entered, self.known = strategy.leyden_entered(self.step), strategy.leyden_known
        return self.entered(*args)


class ByHand:
    """The step of manual optimization, in which there may be any number of backwards: each is expected when it comes, and not
    once at the end of a forward, as DistributedDataParallel does."""

    def __init__(self, wrapper: DistributedDataParallel, step: Callable[..., Any]) -> None:
        self.wrapper, self.step = wrapper, step

    def __call__(self, *args: Any) -> Any:
        wrapper = self.wrapper
        wrapper.require_forward_param_sync = True
        if wrapper._check_sync_bufs_pre_fwd():
            wrapper._sync_buffers()
        return self.step(*args)


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.strategies")
