"""BaseFinetuning and BackboneFinetuning: parts of a module that are frozen at first, and thawed on the way."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from leyden.by_position import positional_room
from leyden.callback import Callback
from leyden.checked import check_bool, check_count, check_function, check_number
from leyden.checkpoint.layout import OURS
from leyden.checkpoint.optimizer_states import names_of
from leyden.distributed.rank_zero import rank_zero_info, rank_zero_warn_user
from leyden.errors import ConflictingOptions, InvalidType, MissingMethod, PossibleUserWarning
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.state.stage import TrainerFn

Modules = nn.Module | Iterable[Any]
"""A module, or modules nested in lists, tuples, dicts and generators."""


def multiplicative(epoch: int) -> float:
    """Twice as fast in every epoch."""
    return 2.0


class BaseFinetuning(Callback):
    """Freeze parts of a module before training, and thaw them when their epoch has come.

    Override :meth:`freeze_before_training` and :meth:`finetune_function`. Give the optimizer only what trains from the beginning:
    ``Adam(filter(lambda p: p.requires_grad, self.parameters()))``; what is thawed gets a group of its own.

    What was thawed, the groups, and which batch norms keep statistics are in every checkpoint: a run that was cut goes on with
    the same bits.

    Example::

        class ThawAt3(BaseFinetuning):
            def freeze_before_training(self, pl_module):
                self.freeze(pl_module.encoder)

            def finetune_function(self, pl_module, epoch, optimizer):
                if epoch == 3:
                    self.unfreeze_and_add_param_group(pl_module.encoder, optimizer, lr=1e-4)
    """

    leyden_turn: int = 0
    """The number of the optimizer for which :meth:`finetune_function` is called."""

    # of the class: a subclass may have a constructor that does not call this one's
    __groups: dict[int, list[dict[str, Any]]] = {}  # noqa: RUF012  # of each optimizer, by names; replaced, never changed
    __restored = False
    __thawed_elsewhere: Sequence[nn.Parameter] = ()  # of Lightning's file, which does not say what was frozen

    # -- for subclasses
    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Freeze what is not to train at first. Called when a fit is set up, before ``configure_optimizers``."""
        raise MissingMethod(
            f"{type(self).__name__} does not say what to freeze. Override freeze_before_training(self, pl_module), and call "
            f"self.freeze(pl_module.PART) there."
        )

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        """Thaw what is due. Called at the start of every epoch, once for each optimizer."""
        raise MissingMethod(
            f"{type(self).__name__} does not say when to thaw. Override finetune_function(self, pl_module, epoch, optimizer), "
            f"and call self.unfreeze_and_add_param_group(pl_module.PART, optimizer) there in the epoch of your choice."
        )

    # -- tools
    @staticmethod
    def flatten_modules(modules: Modules) -> list[nn.Module]:
        """The modules that have parameters of their own, or no children; each once, in their order."""
        found = dict.fromkeys(_walk(modules))
        return [module for module in found if module._parameters or not any(True for _ in module.children())]

    @staticmethod
    def filter_params(modules: Modules, train_bn: bool = True, requires_grad: bool = True) -> Iterator[nn.Parameter]:
        """The parameters that require gradients (or do not), each once; those of batch norms only with ``train_bn``."""
        seen: set[int] = set()
        for module in BaseFinetuning.flatten_modules(modules):
            if isinstance(module, _BatchNorm) and not train_bn:
                continue
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad == requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter

    @staticmethod
    def make_trainable(modules: Modules) -> None:
        """Let all parameters require gradients, and batch norms keep running statistics."""
        for module in BaseFinetuning.flatten_modules(modules):
            _thaw(module)

    @staticmethod
    def freeze_module(module: nn.Module) -> None:
        """Freeze the parameters of ``module`` itself, not of its children. The running statistics of a batch norm stand still."""
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad = False

    @staticmethod
    def freeze(modules: Modules, train_bn: bool = True) -> None:
        """Freeze all parameters. With ``train_bn``, batch norms go on training."""
        for module in BaseFinetuning.flatten_modules(modules):
            if isinstance(module, _BatchNorm) and train_bn:
                BaseFinetuning.make_trainable(module)
            else:
                BaseFinetuning.freeze_module(module)

    @staticmethod
    def filter_on_optimizer(optimizer: Optimizer, params: Iterable[Any]) -> list[Any]:
        """Those of ``params`` that ``optimizer`` does not have yet. Warns of the others, which keep their group."""
        given = list(params)
        held = _held(optimizer)
        new = [parameter for parameter in given if id(parameter) not in held]
        if len(new) < len(given):
            kind = type(optimizer).__name__
            rank_zero_warn_user(
                f"{len(given) - len(new)} of the {len(given)} parameters to be thawed stand in a group of {kind} already: they "
                f"get no group of their own, and keep that one's learning rate. Give the optimizer only what trains from the "
                f"beginning: {kind}(filter(lambda p: p.requires_grad, self.parameters()), ...).",
                category=PossibleUserWarning,
            )
        return new

    @staticmethod
    def unfreeze_and_add_param_group(
        modules: Modules,
        optimizer: Optimizer,
        lr: float | None = None,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
    ) -> None:
        """Thaw ``modules``, and let ``optimizer`` train them in a group of their own.

        Args:
            modules: What is thawed.
            optimizer: What trains it from now on. Parameters that it has already stay where they are; there is a warning where
                they were frozen, or nothing else is thawed.
            lr: The new group's learning rate; by default the first group's, divided by ``initial_denom_lr``.
            initial_denom_lr: The divisor.
            train_bn: Whether batch norms' parameters are in the group.
        """
        modules = BaseFinetuning.flatten_modules(modules)
        trained = {id(parameter) for parameter in BaseFinetuning.filter_params(modules)} & _held(optimizer)
        BaseFinetuning.make_trainable(modules)
        rate = optimizer.param_groups[0]["lr"] / initial_denom_lr if lr is None else float(lr)
        wanted = list(BaseFinetuning.filter_params(modules, train_bn=train_bn, requires_grad=True))
        others = [parameter for parameter in wanted if id(parameter) not in trained]  # batch norms may have trained all along
        new = BaseFinetuning.filter_on_optimizer(optimizer, others or wanted)
        if new:
            optimizer.add_param_group({"params": new, "lr": rate})

    # -- hooks
    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage == TrainerFn.FITTING:  # validation and test leave the module as it is
            self.freeze_before_training(pl_module)

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        """Add the groups again that the run had when it was cut: what the file holds of the optimizers is for all of them."""
        if not self.__restored:
            return
        self.__restored = False
        added = [
            parameter
            for number, optimizer in enumerate(trainer.optimizers)
            for parameter in _add_again(optimizer, self.__groups.get(number, []), dict(pl_module.named_parameters()))
        ]
        file = trainer.leyden_fit.pending
        self.__thawed_elsewhere = added if file is not None and OURS not in file else ()

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        thawed = {id(parameter) for parameter in self.__thawed_elsewhere}
        self.__thawed_elsewhere = ()
        for child in pl_module.modules() if thawed else ():
            if any(id(parameter) in thawed for parameter in child.parameters(recurse=False)):
                _thaw(child)

    def on_train_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        several = positional_room(self.finetune_function)[1] > 3  # 1.x told the optimizer's number besides
        names, kept = names_of(pl_module), {}
        for number, optimizer in enumerate(trainer.optimizers):
            self.leyden_turn, groups, before = number, optimizer.param_groups, len(optimizer.param_groups)
            arguments: list[Any] = [pl_module, trainer.current_epoch, optimizer]
            self.finetune_function(*arguments, *([number] if several else []))
            if len(groups) > before:
                _tell_schedulers(trainer, optimizer, groups[before:])
            known = self.__groups.get(number, [])
            kept[number] = [*known, *(_described(group, names) for group in groups[len(known) :])]
        self.__groups = kept

    def state_dict(self) -> dict[str, Any]:
        return {"internal_optimizer_metadata": self.__groups}

    def load_state_dict(self, state_dict: dict[Any, Any]) -> None:
        self.__restored = True
        groups = state_dict.get("internal_optimizer_metadata")
        if groups is None:  # Lightning's files were nothing else, once
            groups = state_dict
        self.__groups = {number: list(kept) for number, kept in groups.items() if isinstance(number, int)}


@exact_arguments
class BackboneFinetuning(BaseFinetuning):
    """Train all but ``pl_module.backbone`` first; then the backbone too, at a learning rate that grows to that of the rest.

    Args:
        unfreeze_backbone_at_epoch: The epoch, counted from 0, at whose start the backbone is thawed.
        lambda_func: Gets the number of epochs that are begun, and returns what the backbone's rate is multiplied by at the start
            of each later epoch.
        backbone_initial_ratio_lr: The backbone's first rate, as a share of the first group's.
        backbone_initial_lr: The backbone's first rate itself.
        should_align: Whether the backbone's rate stops at the first group's.
        initial_denom_lr: Lightning's: what :meth:`unfreeze_and_add_param_group` divides by where no rate is given. One always is.
        train_bn: Whether the backbone's batch norms are thawed with it. Until then they train as ever.
        verbose: Whether each epoch says both rates.
        rounding: The decimals that it says.

    Attributes:
        previous_backbone_lr: The backbone's newest rate; ``None`` before it is thawed.

    Raises:
        InvalidOption, InvalidType: an argument that cannot be used.
        MissingMethod: (when a fit is set up) the module has no ``backbone`` that is a module.
    """

    def __init__(
        self,
        unfreeze_backbone_at_epoch: int = 10,
        lambda_func: Callable[[int], float] = multiplicative,
        backbone_initial_ratio_lr: float = 10e-2,
        backbone_initial_lr: float | None = None,
        should_align: bool = True,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
        verbose: bool = False,
        rounding: int = 12,
    ) -> None:
        epoch, rate = "an epoch, counted from 0", "a learning rate >= 0"
        check_function("lambda_func", lambda_func, 1, "a function of the epoch that returns a factor")
        self.unfreeze_backbone_at_epoch = check_count("unfreeze_backbone_at_epoch", unfreeze_backbone_at_epoch, 0, epoch)
        self.lambda_func = lambda_func
        self.backbone_initial_ratio_lr = _at_least_0(
            "backbone_initial_ratio_lr", backbone_initial_ratio_lr, "a share of a rate >= 0"
        )
        self.backbone_initial_lr = (
            None if backbone_initial_lr is None else _at_least_0("backbone_initial_lr", backbone_initial_lr, rate)
        )
        self.should_align = check_bool("should_align", should_align)
        self.initial_denom_lr = check_number(
            "initial_denom_lr", initial_denom_lr, "what a rate is divided by, above 0", 0, above=True, finite=True
        )
        self.train_bn = check_bool("train_bn", train_bn)
        self.verbose = check_bool("verbose", verbose)
        self.rounding = check_count("rounding", rounding, 0, "a number of decimals")
        self.previous_backbone_lr: float | None = None
        self.__rates: dict[int, list[Any]] = {}  # of each optimizer: the backbone's newest rate, and its group (or None)

    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage == TrainerFn.FITTING:  # another fit has its own optimizers
            self.__rates, self.previous_backbone_lr = {}, None
        super().setup(trainer, pl_module, stage)

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        if not isinstance(getattr(pl_module, "backbone", None), nn.Module):
            raise MissingMethod(
                f"BackboneFinetuning freezes and thaws the module's `backbone`, and {type(pl_module).__name__} has no nn.Module "
                f"of that name when a fit is set up. Assign that part to self.backbone in __init__, or subclass BaseFinetuning."
            )
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch < self.unfreeze_backbone_at_epoch:
            return
        groups, number = optimizer.param_groups, self.leyden_turn
        rest = groups[0]["lr"]
        if number not in self.__rates:
            rate = rest * self.backbone_initial_ratio_lr if self.backbone_initial_lr is None else self.backbone_initial_lr
            before = len(groups)
            self.unfreeze_and_add_param_group(
                pl_module.backbone,
                optimizer,
                rate,
                train_bn=self.train_bn,
                initial_denom_lr=self.initial_denom_lr,
            )
            group = before if len(groups) > before else None  # its parameters stand in another group already, which warned
        else:
            rate, group = self.__rates[number]
            factor = self.lambda_func(epoch + 1)
            rate = _at_least_0(f"what lambda_func returned for {epoch + 1}", factor, "a factor >= 0") * rate
            if self.should_align and rate > rest:
                rate = rest
            if group is not None:
                groups[group]["lr"] = rate
        self.__rates[number] = [rate, group]
        self.previous_backbone_lr = rate
        if self.verbose:
            rank_zero_info(f"Current lr: {round(float(rest), self.rounding)}, Backbone lr: {round(float(rate), self.rounding)}")

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "previous_backbone_lr": self.previous_backbone_lr,
            "backbone_rates": {number: list(kept) for number, kept in self.__rates.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.previous_backbone_lr = rate = state_dict.get("previous_backbone_lr")
        rates = state_dict.get("backbone_rates")
        if rates is None and rate is not None:  # Lightning's file: the backbone's group is each optimizer's last
            kept = state_dict.get("internal_optimizer_metadata", {})
            rates = {number: [rate, len(groups) - 1] for number, groups in kept.items()}
        self.__rates = {int(number): list(kept) for number, kept in (rates or {}).items()}


def _at_least_0(name: str, given: object, expected: str) -> float:
    return check_number(name, given, expected, 0, finite=True)


def _walk(modules: Any) -> Iterator[nn.Module]:
    if isinstance(modules, nn.Module):
        yield from modules.modules()
        return
    if isinstance(modules, Mapping):
        modules = modules.values()
    if isinstance(modules, Tensor | str) or not isinstance(modules, Iterable):
        raise InvalidType("modules", modules, "a module, or modules in lists and the like")
    for each in modules:
        yield from _walk(each)


def _held(optimizer: Optimizer) -> set[int]:
    """The parameters of ``optimizer``, by their id."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _thaw(module: nn.Module) -> None:
    """What ``module`` has itself, not its children."""
    if isinstance(module, _BatchNorm):
        module.track_running_stats = module.running_mean is not None
    for parameter in module.parameters(recurse=False):
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad = True


# They compute each group's rate from what they noted of it when they were made, and fail at their next step with one more.
_OF_FIXED_GROUPS = ("LambdaLR", "MultiplicativeLR", "OneCycleLR", "CyclicLR", "CosineAnnealingWarmRestarts")
_WITH_CONDITIONS = ("SequentialLR", "CosineAnnealingLR", "SWALR")


def _tell_schedulers(trainer: Run, optimizer: Optimizer, new: list[dict[str, Any]]) -> None:
    """``optimizer`` has ``new`` groups: let PyTorch's schedulers of it take them in, and raise where one cannot."""
    for plan in trainer.lr_scheduler_configs:
        for scheduler in _with_inner(plan.scheduler):
            kind = type(scheduler).__name__
            if getattr(scheduler, "optimizer", None) is not optimizer or kind not in (*_OF_FIXED_GROUPS, *_WITH_CONDITIONS):
                continue
            if kind == "CosineAnnealingLR":  # goes from rate to rate, and behind T_max up again to the one that it noted
                scheduler.base_lrs += [float(group["lr"]) for group in new]
                continue
            if kind == "SWALR" and all("swa_lr" in group for group in new):
                continue  # the optimizer's defaults have it, as under StochasticWeightAveraging
            if kind == "SequentialLR" and scheduler.last_epoch >= max(scheduler._milestones, default=0):
                continue  # it begins no other of its schedulers, by the rates that there were
            until = " until the last of its milestones" if kind == "SequentialLR" else ""
            raise ConflictingOptions(
                f"A parameter group was added to {type(optimizer).__name__}, and its {kind} has a rule only for the groups that "
                f"it was made with{until}. Take a scheduler that goes from rate to rate (StepLR, ExponentialLR, "
                f"CosineAnnealingLR, ReduceLROnPlateau), or give the optimizer all groups from the beginning."
            )


def _with_inner(scheduler: Any) -> Iterator[Any]:
    """A scheduler, and those that it is made of and has not left behind."""
    yield scheduler
    left = bisect_right(scheduler._milestones, scheduler.last_epoch) if type(scheduler).__name__ == "SequentialLR" else 0
    for each in getattr(scheduler, "_schedulers", ())[left:]:
        yield from _with_inner(each)


def _described(group: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    """A group, with its parameters' names in their place."""
    return {**group, "params": [names.get(id(parameter), "?") for parameter in group["params"]]}


def _add_again(
    optimizer: Optimizer, groups: list[dict[str, Any]], parameters: Mapping[str, nn.Parameter]
) -> Iterator[nn.Parameter]:
    """Add to ``optimizer`` those of ``groups`` that it lacks; the parameters in them."""
    held = _held(optimizer)
    for group in groups[len(optimizer.param_groups) :]:
        members = [parameters.get(name) for name in group["params"]]
        if any(each is None or id(each) in held for each in members):
            return  # they are other parameters today: putting back the optimizer's state says so
        named = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        both = zip(group["params"], members, strict=True)
        optimizer.add_param_group({**named, "params": list(both) if "param_names" in group else members})
        yield from (each for each in members if each is not None)
