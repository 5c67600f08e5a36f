"""WeightAveraging and EMAWeightAveraging: a running average of the weights, which is validated and kept instead of them."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_swa_avg_fn

from leyden.callback import Callback
from leyden.callbacks.rewriting import AVERAGES, copy_of, formats_of, is_built_late, read_device, refuse_beside, require_device
from leyden.checked import check_bool, check_count, check_function, check_number
from leyden.checkpoint.drift import Drift
from leyden.checkpoint.forms import usable
from leyden.checkpoint.layout import OURS
from leyden.distributed.rank_zero import rank_zero_info, rank_zero_warn_user
from leyden.errors import ConflictingOptions, InvalidOption, Unsupported
from leyden.module import LightningModule
from leyden.spelling import exact_arguments, unknown_argument
from leyden.state.end import End
from leyden.state.progress import Done
from leyden.state.run import Run
from leyden.strategies.shards import is_sharded, local
from leyden.types import STEP_OUTPUT

_FUNCTIONS = ("avg_fn", "multi_avg_fn")
_MEAN = get_swa_avg_fn()
"""What an :class:`AveragedModel` does where no function is given."""
_CURRENT, _REST = "current_model_state", "averaging_state"
"""Where a checkpoint has training's own weights, and what else the average consists of: Lightning's names."""


@exact_arguments
class WeightAveraging(Callback):
    """Keep an average of the weights (a :class:`torch.optim.swa_utils.AveragedModel`), updated while training goes on.

    Validation in a fit runs on the average, and after the fit the module has it. Training itself goes on with its own weights:
    they are put back after each validation, however that ends. Until the first update there is no average, and the module's own
    weights stand for it.

    A checkpoint has the average as ``state_dict``, which ``load_from_checkpoint`` and ``trainer.validate`` use, and training's
    weights beside it. A run that goes on from it, cut inside a validation or not, ends with the same bits.

    Override :meth:`should_update` to choose when the average is updated. Without a function of your own it is the mean of all
    weights it was updated with. Where parameters are in shards (``strategy="fsdp"``) the average is too, and a function of your
    own gets :class:`torch.distributed.tensor.DTensor`.

    Args:
        device: Where the average is kept; ``None``: on the module's device.
        use_buffers: Whether buffers (batch norm's statistics ...) are averaged too. If false they are copied at each update.
        **kwargs: ``avg_fn(average, current, count)`` or ``multi_avg_fn(averages, currents, count)``, as ``AveragedModel`` takes
            them.

    Raises:
        UnknownName: another keyword argument.
        ConflictingOptions: both functions; (when fit begins) another callback averages or prunes the weights.
        InvalidType, InvalidOption: an argument that cannot be used.
        DeviceUnavailable: (when fit begins) this machine has no such device.
        Unsupported: (when fit begins) the module cannot be copied.
    """

    leyden_rewrites: ClassVar[str] = AVERAGES

    def __init__(self, device: torch.device | str | int | None = None, use_buffers: bool = True, **kwargs: Any) -> None:
        self._device = read_device(device)
        self._use_buffers = check_bool("use_buffers", use_buffers)
        for name, function in kwargs.items():
            if name not in _FUNCTIONS:
                raise unknown_argument(type(self).__name__, name, ["device", "use_buffers", *_FUNCTIONS])
            if function is not None:
                check_function(name, function, 3, "a function that gets averages, current weights and the count of updates")
        if all(kwargs.get(name) is not None for name in _FUNCTIONS):
            raise ConflictingOptions("avg_fn and multi_avg_fn both say how to average. Leave one of them out.")
        self._kwargs = kwargs
        self.__of: LightningModule | None = None  # whose average it is
        self.__begin()

    def __begin(self) -> None:
        self._average_model: AveragedModel | None = None
        self._latest_update_step = 0  # the count of steps at the newest update
        self._latest_update_epoch = -1
        self.__count = 0  # updates, as `n_averaged` says it, without asking the device
        self.__swapped = False  # whether the module has the average, and the averaged model has training's weights
        self.__inside = False  # whether a validation on the average has begun and not ended
        self.__exact: dict[int, Tensor] = {}  # averages that the module's number format cannot hold, while they are in it
        self.__trained: dict[str, Any] | None = None  # training's own weights, once the module has the average for good
        self.__trained_buffers: dict[str, Any] = {}  # those that are not persistent
        self.__before_end: dict[str, Any] | None = None  # the average before the end of an epoch that a limit ended inside
        self.__drift: Drift | None = None
        self.__formats: dict[str, torch.dtype] = {}  # of the parameters, before they are put into shards

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update the average now. To be overridden; the default is after every optimizer step.

        Args:
            step_idx: After a step: its number, counted from 0. Else ``None``.
            epoch_idx: After a training epoch: its number, counted from 0. Else ``None``.
        """
        return step_idx is not None

    # -- before training
    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_beside(trainer, self)
        if self._device is not None:
            require_device(self._device, type(self).__name__)
        self.__dict__.pop("_WeightAveraging__last", None)
        self.__last = self.__dict__.copy()  # a fit that goes on from where the last one ended takes it up
        self.__begin()
        if is_built_late(pl_module):
            return
        if trainer.strategy.holds_whole_parameters:
            self.__make(pl_module)
        else:  # once they are in shards: an average is never whole either
            self.__formats = formats_of(pl_module)

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        last: dict[str, Any] = self.__dict__.pop("_WeightAveraging__last", {})
        fit = trainer.leyden_fit
        goes_on = fit.progress.batches > 0 and fit.pending is None
        if goes_on and last.get("_WeightAveraging__of") is pl_module and last["_average_model"] is not None:
            self.__dict__.update(last)
        self.__make_ready(pl_module)

    def __make(self, pl_module: LightningModule) -> None:
        self._average_model = AveragedModel(nn.Module(), use_buffers=self._use_buffers, **self._kwargs)
        self._average_model.module = copy_of(pl_module, self, self.__formats)
        self.__of = pl_module
        self.__drift = Drift(self._average_model.module)

    def __make_ready(self, pl_module: LightningModule) -> None:
        """Have an average of what the module is made of now, on its device, in a number format that is wide enough."""
        if self._average_model is None:
            self.__make(pl_module)
        average = self._average()
        lazy = list(dict(filter(lambda named: is_lazy(named[1]), pl_module.named_parameters())))
        if lazy:
            raise Unsupported(f"{lazy[0]} has no shape yet, and cannot be averaged. Run a batch through the module before fit.")
        if self._device is not None:
            average.to(self._device)
        elif not _is_in_shards(pl_module):  # those are where the module's own are
            average.to(pl_module.device)
        self.__check_shapes(pl_module)
        for averaged, current in self.__pairs(pl_module):
            wide = torch.promote_types(averaged.dtype, current.dtype)
            if averaged.dtype != wide:
                averaged.data = averaged.data.to(wide)

    def __check_shapes(self, pl_module: LightningModule) -> None:
        mine, theirs = _shapes(self._average().module), _shapes(pl_module)
        if mine != theirs:
            odd = sorted({*mine.items()} ^ {*theirs.items()}, key=str)[0][0]
            raise Unsupported(
                f"{type(self).__name__} averages the parameters and buffers that the module had when fit began, and {odd!r} is "
                f"not as it was. Change the module in configure_model or setup."
            )

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        """A run that goes on: training has its own weights, but in the rest of a validation in which it was cut."""
        self.__check_shapes(pl_module)
        progress = trainer.leyden_fit.progress
        if self.__trained is not None and progress.done < Done.EPOCH_TOLD:  # else the others are told of the end, and no more
            for name, buffer in _unkept(pl_module).items():
                _unkept(self._average().module)[name].data.copy_(buffer.data)
            trainer.strategy.leyden_reshard()
            pl_module.load_state_dict(self.__trained, strict=False)
            _put_buffers(pl_module, self.__trained_buffers)
            self.__trained, self.__trained_buffers, self.__exact = None, {}, {}
        if self.__swapped and not (progress.validating and trainer.enable_validation):
            self.__exchange(pl_module)
            self.__inside = False
        kept, self.__before_end = self.__before_end, None
        if kept is not None and not End(trainer).is_cut():  # the limit is higher now, and that end was none
            self._average().load_state_dict(kept)
            self.__count = int(self._average().n_averaged)

    # -- updates
    def on_train_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        steps = trainer.global_step
        if steps > self._latest_update_step and self.should_update(step_idx=steps - 1):
            self.__update(pl_module)
            self._latest_update_step = steps

    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        if epoch > self._latest_update_epoch and self.should_update(epoch_idx=epoch):
            if not trainer.leyden_fit.progress.closed:
                self.__before_end = {name: value.clone() for name, value in self._average().state_dict().items()}
            self.__update(pl_module)
            self._latest_update_epoch = epoch

    def __update(self, pl_module: LightningModule) -> None:
        average = self._average()
        function = average.avg_fn
        if function is None and average.multi_avg_fn is None:
            function = _MEAN  # PyTorch's own, without its way for CUDA, which fails on the whole numbers of a BatchNorm
        # ours look at each number by itself, and need not see that a tensor is a shard
        seen = local if isinstance(function, _Ema) or function is _MEAN else _as_it_is
        if self.__count == 0 or function is None:
            average.update_parameters(pl_module)
        else:  # as that does it, without asking the device how many there were
            with torch.no_grad():
                counts = {average.n_averaged.device: average.n_averaged}
                for averaged, current in self.__pairs(pl_module, buffers=self._use_buffers):
                    mine, theirs = seen(averaged.detach()), seen(current.detach().to(averaged.device))
                    if mine.device not in counts:  # made there: to copy it would wait for the device
                        counts[mine.device] = torch.full((), self.__count, dtype=torch.long, device=mine.device)
                    mine.copy_(function(mine, theirs, counts[mine.device]))
                if not self._use_buffers:
                    for averaged, current in zip(average.module.buffers(), pl_module.buffers(), strict=True):
                        averaged.detach().copy_(current.detach())
                average.n_averaged += 1
        self.__count += 1

    # -- in and out
    def on_validation_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.leyden_fitting or self._average_model is None or self.__swapped:
            return
        self.__follow(pl_module)
        self.__inside = True
        self._swap_models(pl_module)
        trainer.strategy.leyden_share_buffers()  # of the average too each process has its own

    def on_validation_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if self.__swapped and trainer.leyden_fitting:
            self._swap_models(pl_module)
            self.__inside = False

    def on_exception(self, trainer: Run, pl_module: LightningModule, exception: BaseException) -> None:
        if self.__swapped:  # a run that goes on from here is inside the validation still
            trainer.strategy.leyden_reshard()
            self.__exchange(pl_module)

    def on_train_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if self._average_model is None:
            return
        if self.__count == 0:
            rank_zero_warn_user(
                f"{type(self).__name__} was never told to update its average: the module keeps the weights that training has "
                f"reached. Let should_update return True earlier, or train longer."
            )
        self.__follow(pl_module)
        self.__trained = {name: _copied(value) for name, value in pl_module.state_dict().items()}
        self.__trained_buffers = self.__unkept_of(pl_module)
        self._copy_average_to_current(pl_module)
        self.__note_exact(pl_module)

    def __follow(self, pl_module: LightningModule) -> None:
        """Where nothing was averaged yet, the weights of today stand for the average."""
        if self.__count == 0:
            with torch.inference_mode(False), torch.no_grad():
                for averaged, current in self.__pairs(pl_module):
                    local(averaged.data).copy_(local(current.data))

    def _swap_models(self, pl_module: LightningModule) -> None:
        """Exchange the values of the module and of its average."""
        self.__exchange(pl_module)

    def __exchange(self, pl_module: LightningModule) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for averaged, current in self.__pairs(pl_module):
                was, mine, theirs = averaged.data.clone(), local(averaged.data), local(current.data)
                exact = None if was.dtype == current.dtype else self.__exact.pop(id(current), None)
                if exact is not None and torch.equal(local(exact).to(theirs.device, theirs.dtype), theirs):
                    mine.copy_(local(exact))
                else:
                    mine.copy_(theirs)
                    if exact is None and was.dtype != current.dtype:
                        self.__exact[id(current)] = was
                theirs.copy_(local(was))
        self.__swapped = not self.__swapped

    def _copy_average_to_current(self, pl_module: LightningModule) -> None:
        """Give the module the values of its average."""
        with torch.no_grad():
            for averaged, current in self.__pairs(pl_module):
                local(current.data).copy_(local(averaged.data))

    def _average(self) -> AveragedModel:
        assert self._average_model is not None
        return self._average_model

    def __pairs(self, pl_module: LightningModule, buffers: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        mine = self._average().module
        if not buffers:
            return zip(mine.parameters(), pl_module.parameters(), strict=True)
        return zip(chain(mine.parameters(), mine.buffers()), chain(pl_module.parameters(), pl_module.buffers()), strict=True)

    # -- kept
    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self._latest_update_step, "latest_update_epoch": self._latest_update_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._latest_update_step = state_dict["latest_update_step"]
        self._latest_update_epoch = state_dict.get("latest_update_epoch", -1)

    def on_save_checkpoint(self, trainer: Run, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average in the place of training's weights, and those beside it."""
        if self._average_model is None or self.__of is not pl_module:
            rank_zero_info(f"{type(self).__name__} has no average of this module: the checkpoint holds its weights as they are.")
            return
        current, average = self.__weights(pl_module, checkpoint["state_dict"])
        checkpoint["state_dict"], checkpoint[_CURRENT] = average, current
        checkpoint[_REST] = {"n_averaged": self._average_model.n_averaged}
        checkpoint.setdefault(OURS, {})["averaging"] = {
            "inside": self.__inside,
            "ended": self.__trained is not None,
            "buffers": self.__buffers_aside(pl_module),
            "before_end": self.__before_end,
        }

    def leyden_put_weights(self, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is not None and self.__of is pl_module:
            checkpoint["state_dict"] = self.__weights(pl_module, checkpoint["state_dict"])[1]

    def __weights(self, pl_module: LightningModule, state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Training's weights and their average; ``state`` is what the module has now."""
        own = dict(state)
        if self.__trained is not None:
            return self.__trained, self.__exactly(pl_module, own)
        strategy = pl_module.trainer.strategy
        other = strategy.model_state_dict(self._average().module)
        if self.__swapped:
            return {name: _in_format_of(own.get(name), value) for name, value in other.items()}, self.__exactly(pl_module, own)
        return own, own if self.__count == 0 else other

    def __note_exact(self, pl_module: LightningModule) -> None:
        """The module has its average for good, as well as its number format can hold it."""
        self.__exact = {id(mine): exact.data for exact, mine in self.__pairs(pl_module) if exact.dtype != mine.dtype}

    def __exactly(self, pl_module: LightningModule, own: dict[str, Any]) -> dict[str, Any]:
        """What the module has, with the averages themselves in the place of what its number format made of them."""
        tensors = dict(chain(pl_module.named_parameters(remove_duplicate=False), pl_module.named_buffers()))
        wide = {name: self.__exact[id(tensor)] for name, tensor in tensors.items() if id(tensor) in self.__exact}
        whole = pl_module.trainer.strategy.leyden_whole(wide) if wide else {}
        return {name: whole[name] if _is_rounded(whole.get(name), value) else value for name, value in own.items()}

    def __buffers_aside(self, pl_module: LightningModule) -> dict[str, Any]:
        """Buffers that no ``state_dict`` holds, of the one of the two that the checkpoint does not take for the module."""
        if self.__trained is not None:
            return self.__trained_buffers
        return self.__unkept_of(pl_module if self.__inside and not self.__swapped else self._average().module)

    def __unkept_of(self, module: nn.Module) -> dict[str, Any]:
        assert self.__drift is not None
        buffers: dict[str, Any] = self.__drift.state_dict(module)["buffers"]
        return {name: _copied(value) for name, value in buffers.items()}

    def on_load_checkpoint(self, trainer: Run, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """In a fit, take up the average, and give the module training's own weights."""
        if not trainer.leyden_fitting:
            return
        self.__make_ready(pl_module)
        average, cut = self._average(), trainer.strategy.leyden_cut
        if _CURRENT not in checkpoint or _REST not in checkpoint:
            rank_zero_warn_user(
                f"{trainer.ckpt_path} was written without {type(self).__name__}: its weights are training's own, and the average "
                f"begins with them."
            )
            state = cut(checkpoint["state_dict"], average.module.state_dict())
            average.module.load_state_dict(state, strict=False)
            return
        with usable(trainer.ckpt_path, _CURRENT):
            state = cut(checkpoint["state_dict"], average.module.state_dict())
            average.module.load_state_dict(state, strict=pl_module.strict_loading)
            average.n_averaged.copy_(torch.as_tensor(checkpoint[_REST]["n_averaged"]))
            self.__count = int(average.n_averaged)
            ours = (checkpoint.get(OURS) or {}).get("averaging") or {}
            buffers, kept = ours.get("buffers") or {}, ours.get("before_end")
            self.__before_end = dict(cut(kept, average.state_dict())) if kept else None
            current = cut(checkpoint[_CURRENT], pl_module.state_dict())
            if ours.get("ended"):  # the module has the average already
                self.__trained = {name: _copied(value) for name, value in current.items()}
                self.__trained_buffers = buffers
                self.__note_exact(pl_module)
                return
            pl_module.load_state_dict(current, strict=pl_module.strict_loading)
            if ours.get("inside"):
                self.__inside = True
                self.__exchange(pl_module)
            _put_buffers(average.module, buffers)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in chain(module.named_parameters(), module.named_buffers())}


def _is_in_shards(module: nn.Module) -> bool:
    return any(map(is_sharded, module.parameters()))


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _is_rounded(exact: Any, value: Any) -> bool:
    """Whether ``value`` is ``exact`` in a narrower number format, and nobody has set another one since."""
    return isinstance(exact, Tensor) and torch.equal(local(exact).to(local(value)), local(value))


def _in_format_of(other: Any, value: Any) -> Any:
    return value.to(other.dtype) if isinstance(value, Tensor) and isinstance(other, Tensor) else value


def _unkept(module: nn.Module) -> dict[str, Tensor]:
    kept = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name not in kept}


def _put_buffers(module: nn.Module, buffers: Mapping[str, Any]) -> None:
    there = dict(module.named_buffers())
    for name, value in buffers.items():
        if name in there and isinstance(value, Tensor):
            there[name].data.copy_(value)


class EMAWeightAveraging(WeightAveraging):
    """Keep an exponential moving average of the weights: ``average = decay * average + (1 - decay) * weights`` at each update.

    The first update copies the weights. Otherwise as :class:`WeightAveraging`.

    Args:
        device, use_buffers: As there.
        decay: From 0 (the newest weights alone) to 1 (the first ones for ever).
        update_every_n_steps: Update after the steps whose number, counted from 0, is a multiple of this; 0: after no step.
        update_starting_at_step: The first step, counted from 0, after which to update; ``None``: the very first.
        update_starting_at_epoch: Update at the end of each epoch too, from this one on, counted from 0; ``None``: at none.

    Raises:
        InvalidOption, InvalidType: an argument that cannot be used.
        UnknownName: a keyword argument that means nothing here.
        ConflictingOptions: nothing would ever update the average.
    """

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        decay = check_number("decay", decay, "a number from 0.0 to 1.0")
        if not 0.0 <= decay <= 1.0:
            raise InvalidOption("decay", decay, "a number from 0.0 to 1.0")
        known = ["decay", "update_every_n_steps", "update_starting_at_step", "update_starting_at_epoch"]
        other = kwargs.pop("multi_avg_fn", None)  # stands, as null, in configuration files that Lightning wrote
        for name in kwargs if other is None else ("multi_avg_fn", *kwargs):
            raise unknown_argument(type(self).__name__, name, ["device", "use_buffers", *known])
        super().__init__(device, use_buffers, avg_fn=_Ema(decay))
        self.update_every_n_steps = check_count("update_every_n_steps", update_every_n_steps, 0, "a number of steps >= 0")
        self.update_starting_at_step = _count_or_none("update_starting_at_step", update_starting_at_step, "step")
        self.update_starting_at_epoch = _count_or_none("update_starting_at_epoch", update_starting_at_epoch, "epoch")
        if self.update_every_n_steps == 0 and self.update_starting_at_epoch is None:
            raise ConflictingOptions(
                "update_every_n_steps=0 and no update_starting_at_epoch: the average would never be updated. Give one of them."
            )

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update after this step, or at the end of this epoch."""
        if step_idx is not None and self.update_every_n_steps > 0 and step_idx % self.update_every_n_steps == 0:
            return self.update_starting_at_step is None or step_idx >= self.update_starting_at_step
        return epoch_idx is not None and self.update_starting_at_epoch is not None and epoch_idx >= self.update_starting_at_epoch


class _Ema:
    """What :func:`torch.optim.swa_utils.get_ema_avg_fn` makes, in a form that can be pickled."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.function: Callable[..., Any] = get_ema_avg_fn(decay)

    def __call__(self, average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        averaged: Tensor = self.function(average, current, count)
        return averaged

    def __reduce__(self) -> tuple[Any, ...]:
        return _Ema, (self.decay,)


def _count_or_none(name: str, given: int | None, what: str) -> int | None:
    return None if given is None else check_count(name, given, 0, f"the number of the first {what}, counted from 0, or None")
