"""ModelPruning: set the least important parameters to zero while training goes on, with torch.nn.utils.prune."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from leyden.callback import Callback
from leyden.callbacks import masks
from leyden.callbacks.rewriting import PRUNES, is_built_late, refuse_beside
from leyden.checked import check_bool, check_function, check_number
from leyden.checkpoint.forms import usable
from leyden.distributed.rank_zero import rank_zero_info, rank_zero_warn_user
from leyden.errors import ConflictingOptions, IgnoredSetting, InvalidOption, InvalidType, Unsupported, did_you_mean
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.end import End
from leyden.state.progress import Done
from leyden.state.run import Run

Pairs = Sequence[tuple[nn.Module, str]]
_METHODS: dict[str, type[prune.BasePruningMethod]] = {
    "ln_structured": prune.LnStructured,
    "l1_unstructured": prune.L1Unstructured,
    "random_structured": prune.RandomStructured,
    "random_unstructured": prune.RandomUnstructured,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(prune, name) for name in _METHODS}
_AMOUNT = "a share (a float from 0.0 to 1.0), a number of parameters (an int >= 0), or a function of the epoch that gives one"
_PAIRS = 'a list of pairs (module, "name of its parameter")'


@exact_arguments
class ModelPruning(Callback):
    """Prune parameters at the end of each epoch: their least important values become zero and stay so.

    While training goes on a pruned parameter ``weight`` is the product of the parameter ``weight_orig`` and the buffer
    ``weight_mask``. A file has the product as ``weight``, as a module has that is not pruned, unless
    ``make_pruning_permanent=False``; parameters, masks and the initial values of the lottery ticket stand beside, and a run that
    goes on from it ends with the same bits.

    Override :meth:`filter_parameters_to_prune` to choose among the parameters.

    Args:
        pruning_fn: ``"l1_unstructured"``, ``"random_unstructured"``, ``"ln_structured"``, ``"random_structured"``, or a
            subclass of :class:`torch.nn.utils.prune.BasePruningMethod` (the class, and with ``use_global_unstructured``).
        parameters_to_prune: Pairs ``(module, "name of its parameter")``; none: the ``parameter_names`` of all layers.
        parameter_names: ``["weight"]``, ``["bias"]``, or both.
        use_global_unstructured: Whether the least important are looked for among all these parameters together, not in each.
        amount: The share (a float) or number (an int) of those still left that is pruned each time; or a function of the epoch,
            which may give none.
        apply_pruning: Whether to prune at all; or a function of the epoch that says so.
        make_pruning_permanent: Whether the module is an ordinary one again after the fit, and in files.
        use_lottery_ticket_hypothesis: Whether what is left goes back to its initial values each time (Frankle and Carbin,
            https://arxiv.org/abs/1803.03635, step 4 on page 2); or a function of the epoch that says so.
        resample_parameters: With that: whether they get new random values, by the layers' ``reset_parameters``.
        pruning_dim: Of structured pruning: the dimension whose slices are pruned.
        pruning_norm: Of ``"ln_structured"``: the ``n`` of the norm by which they are compared.
        verbose: 1: log how much is pruned; 2: of each parameter too.
        prune_on_train_epoch_end: Whether to prune at the end of the training epoch, not of each validation.

    Attributes:
        amount: As given.
        pruning_fn: What prunes: a class of torch's, or with ``use_global_unstructured=False`` a function.

    Raises:
        InvalidOption, InvalidType: an argument that cannot be used; (when fit begins) no parameter to prune, one that is not the
            module's, or an ``amount`` that is more than there is.
        ConflictingOptions: arguments that exclude each other; (when fit begins) another callback averages the weights.
        Unsupported: (when fit begins) the parameters are to be put into shards.
    """

    leyden_rewrites: ClassVar[str] = PRUNES
    leyden_rebuilds: ClassVar[bool] = True
    """``on_fit_start`` makes the module such that a file's weights fit."""
    PARAMETER_NAMES: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def __init__(
        self,
        pruning_fn: Literal["ln_structured", "l1_unstructured", "random_structured", "random_unstructured"]
        | Callable[..., Any]
        | str,
        parameters_to_prune: Pairs = (),
        parameter_names: list[str] | None = None,
        use_global_unstructured: bool = True,
        amount: int | float | Callable[[int], int | float] = 0.5,
        apply_pruning: bool | Callable[[int], bool] = True,
        make_pruning_permanent: bool = True,
        use_lottery_ticket_hypothesis: bool | Callable[[int], bool] = True,
        resample_parameters: bool = False,
        pruning_dim: int | None = None,
        pruning_norm: int | None = None,
        verbose: int = 0,
        prune_on_train_epoch_end: bool = True,
    ) -> None:
        self._use_global_unstructured = check_bool("use_global_unstructured", use_global_unstructured)
        self._parameter_names = self.__checked_names(parameter_names)
        self._make_pruning_permanent = check_bool("make_pruning_permanent", make_pruning_permanent)
        self._apply_pruning = _switch("apply_pruning", apply_pruning)
        self._use_lottery_ticket_hypothesis = _switch("use_lottery_ticket_hypothesis", use_lottery_ticket_hypothesis)
        self._resample_parameters = check_bool("resample_parameters", resample_parameters)
        self._prune_on_train_epoch_end = check_bool("prune_on_train_epoch_end", prune_on_train_epoch_end)
        if verbose not in (0, 1, 2):
            raise InvalidOption("verbose", verbose, "0, 1 or 2")
        self._verbose = int(verbose)
        if pruning_dim is not None and type(pruning_dim) is not int:
            raise InvalidType("pruning_dim", pruning_dim, "the number of a dimension, or None")
        if pruning_norm is not None and str(pruning_norm) not in ("fro", "nuc"):  # names of norms that torch has
            check_number("pruning_norm", pruning_norm, "the n of a norm, above 0, or None", 0, above=True)
        self._dim = pruning_dim
        self._global_kwargs: dict[str, Any] = {}
        self._pruning_method_name = ""
        self.pruning_fn = self.__chosen(pruning_fn, pruning_dim, pruning_norm)
        self.amount = check_function("amount", amount, 1, _AMOUNT) if callable(amount) else _checked_amount(amount)
        if self._resample_parameters and self._use_lottery_ticket_hypothesis is False:
            rank_zero_warn_user(
                "resample_parameters=True belongs to use_lottery_ticket_hypothesis, which is False: nothing is resampled.",
                category=IgnoredSetting,
            )
        pairs: Any = parameters_to_prune
        self.__given: Pairs = () if pairs is None else pairs
        if not isinstance(self.__given, list | tuple) or not all(map(_is_pair, self.__given)):
            raise InvalidType("parameters_to_prune", parameters_to_prune, f"{_PAIRS}, or none for all")
        self._parameters_to_prune = self.__given
        self.__begin()

    def __begin(self) -> None:
        self._original_layers: dict[int, dict[str, Any]] | None = None
        self.__names: list[str] | None = None  # of the parameters to prune, in the whole module
        self.__permanent: dict[str, Any] | None = None  # masks and parameters, once the module is an ordinary one again
        self.__before_end: dict[str, Any] | None = None  # the same before the end of an epoch that a limit ended inside
        self.__wanted: Mapping[str, Any] | None = None  # a file's
        self.__seen: dict[str, Tensor] = {}  # what the last forward computed with, in the run that a file is of

    # -- what was asked for
    def __checked_names(self, names: Any) -> tuple[str, ...]:
        if names is None or names in ([], ()):
            return self.PARAMETER_NAMES
        if not isinstance(names, list | tuple) or not all(name in self.PARAMETER_NAMES for name in names):
            raise InvalidOption(
                "parameter_names", names, f"a list of {' and '.join(map(repr, self.PARAMETER_NAMES))}, or one of them"
            )
        return tuple(names)

    def __chosen(self, given: Any, dim: int | None, norm: int | None) -> Any:
        """What prunes, and ``_global_kwargs`` for it where it is a class."""
        together = self._use_global_unstructured
        if isinstance(given, str):
            name = given.lower()
            if name not in _METHODS:
                raise InvalidOption(
                    "pruning_fn", given, f"one of {', '.join(_METHODS)}, or a subclass of BasePruningMethod",
                    did_you_mean(name, _METHODS).strip(),
                )  # fmt: skip
            structured = name.endswith("_structured")
            if together and structured:
                raise ConflictingOptions(
                    f"pruning_fn={given!r} prunes whole slices of one parameter, which does not go with "
                    f"use_global_unstructured=True. Set that to False."
                )
            needed: dict[str, Any] = {"pruning_dim": dim} if structured else {}
            if name == "ln_structured":
                needed["pruning_norm"] = norm
            for argument, value in needed.items():
                if value is None:
                    raise InvalidOption(argument, value, f"a number: pruning_fn={given!r} needs it")
            for argument, value in (("pruning_dim", dim), ("pruning_norm", norm)):
                if value is not None and argument not in needed:
                    rank_zero_warn_user(f"{argument}={value!r} means nothing to pruning_fn={given!r}.", category=IgnoredSetting)
            self._pruning_method_name = _METHODS[name].__name__ if together else name
            if together:
                return _METHODS[name]
            words = {"pruning_dim": "dim", "pruning_norm": "n"}
            return partial(_FUNCTIONS[name], **{words[argument]: value for argument, value in needed.items()})
        if not (inspect.isclass(given) and issubclass(given, prune.BasePruningMethod)):
            raise InvalidType(
                "pruning_fn", given, f"one of {', '.join(_METHODS)}, or a subclass of BasePruningMethod (the class, no instance)"
            )
        kind = getattr(given, "PRUNING_TYPE", None)
        if not together:
            raise ConflictingOptions(
                f"pruning_fn={given.__name__} is a class, and goes with use_global_unstructured=True only. Set that, or name "
                f"one of torch's functions."
            )
        if kind != "unstructured":
            raise ConflictingOptions(
                f"pruning_fn={given.__name__} has PRUNING_TYPE {kind!r}, and use_global_unstructured=True needs 'unstructured'."
            )
        self._pruning_method_name = given.__name__
        return given

    @property
    def state_key(self) -> str:
        return self._generate_state_key(
            pruning_fn=self._pruning_method_name, parameter_names=list(self._parameter_names), parameters=len(self.__given)
        )

    def filter_parameters_to_prune(self, parameters_to_prune: Pairs = ()) -> Pairs:
        """Which of these pairs ``(module, "name of its parameter")`` to prune. To be overridden; the default is all."""
        return parameters_to_prune

    @staticmethod
    def sanitize_parameters_to_prune(
        pl_module: LightningModule, parameters_to_prune: Pairs = (), parameter_names: Sequence[str] = ()
    ) -> Pairs:
        """``parameters_to_prune``, looked for in ``pl_module``; where there are none, those called ``parameter_names`` in all
        its layers.

        Raises:
            InvalidType: no list of pairs.
            InvalidOption: a pair whose module or parameter is not in ``pl_module``.
        """
        containers = (LightningModule, nn.Sequential, nn.ModuleList, nn.ModuleDict)
        layers = [layer for layer in pl_module.modules() if not isinstance(layer, containers)]
        if not parameters_to_prune:
            names = parameter_names or ModelPruning.PARAMETER_NAMES
            return [(layer, name) for name in names for layer in layers if masks.parameter_of(layer, name) is not None]
        if not isinstance(parameters_to_prune, list | tuple) or not all(map(_is_pair, parameters_to_prune)):
            raise InvalidType("parameters_to_prune", parameters_to_prune, f"{_PAIRS}, or none for all")
        for module, name in parameters_to_prune:
            if not any(module is each for each in pl_module.modules()):
                raise InvalidOption(
                    "parameters_to_prune", (module, name), f"modules inside {type(pl_module).__name__}, which has no such one"
                )
            if masks.parameter_of(module, name) is None:
                near = did_you_mean(name, [each for each, _ in module.named_parameters(recurse=False)])
                raise InvalidOption(
                    "parameters_to_prune", (module, name), f"names of parameters: this module has no {name!r}", near.strip()
                )
        return parameters_to_prune

    # -- before training
    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_beside(trainer, self)
        if not trainer.strategy.holds_whole_parameters:
            raise Unsupported(
                "ModelPruning compares whole parameters and puts others in their place, and "
                f"{type(trainer.strategy).__name__} keeps them in shards. Prune with strategy='ddp' or on one device."
            )
        file = trainer.leyden_fit.pending
        if file is not None and not any(str(name).endswith("_mask") for name in file.get("state_dict", ())):
            self.make_pruning_permanent(pl_module)  # of a fit that was broken off: the file's weights fit an ordinary module
        self.__begin()
        if not is_built_late(pl_module):
            self.__find(pl_module)

    def __find(self, pl_module: LightningModule) -> None:
        found = self.sanitize_parameters_to_prune(pl_module, self.__given, self._parameter_names)
        self._parameters_to_prune = pairs = list(self.filter_parameters_to_prune(found))
        if not pairs:
            raise InvalidOption(
                "parameters_to_prune", self.__given, f"at least one: {type(pl_module).__name__} has no parameter called "
                f"{' or '.join(self._parameter_names)}, or filter_parameters_to_prune left none",
            )  # fmt: skip
        if not callable(self.amount):
            self.__check_room(self.amount)
        prefixes = {id(module): name for name, module in pl_module.named_modules()}
        self.__names = [f"{prefixes[id(module)]}.{name}".lstrip(".") for module, name in pairs]
        if self._use_lottery_ticket_hypothesis is not False:
            self._original_layers = {}
            for number, (module, name) in enumerate(pairs):
                if id(module) not in self._original_layers:
                    self._original_layers[id(module)] = {"data": masks.copied(module), "names": []}
                self._original_layers[id(module)]["names"].append((number, name))

    def __check_room(self, amount: int | float) -> None:
        """Raise where there is less to prune than ``amount``, or not along the dimension that was asked for."""
        tensors = [masks.parameter_of(module, name) for module, name in self._parameters_to_prune]
        sizes = [0 if tensor is None else tensor.numel() for tensor in tensors]
        most, of = (
            (sum(sizes), "parameters") if self._use_global_unstructured else (min(sizes), "values of the smallest parameter")
        )
        if self._pruning_method_name.endswith("_structured"):
            flat = next(
                (pair for pair, tensor in zip(self._parameters_to_prune, tensors, strict=True) if _rank(tensor) < 2), None
            )
            if flat is not None:
                raise InvalidOption(
                    "pruning_fn", self._pruning_method_name, f"an unstructured one for {flat[1]!r} of {flat[0]}, which has one "
                    f"dimension", "Leave it out: parameter_names=['weight'].",
                )  # fmt: skip
            dim = self._dim
            if isinstance(dim, bool) or not isinstance(dim, int):
                raise InvalidType("pruning_dim", dim, "the number of a dimension")
            least = min(map(_rank, tensors))
            if not -least <= dim < least:
                raise InvalidOption("pruning_dim", dim, f"a dimension of parameters that have {least}")
            most, of = min(tensor.shape[dim] for tensor in tensors if tensor is not None), "slices along that dimension"
        if isinstance(amount, int) and amount > most:
            raise InvalidOption("amount", amount, f"at most the {most} {of} that there are")

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if self.__names is None:
            self.__find(pl_module)
        wanted = self.__wanted
        if wanted is None:
            return
        with usable(trainer.ckpt_path, self.state_key):
            for layer, number, name in self.__originals():
                value = wanted["initial"].get(self.__named(number))
                if value is not None:
                    getattr(layer, name).data.copy_(value)
            self.__before_end = wanted["before_end"]
            self.__permanent = dict(wanted["pruned"]) if wanted["permanent"] else None
            if self.__permanent is None:
                masks.put(self.__targets(), wanted["pruned"])
                self.__seen = {name: kept["seen"] for name, kept in wanted["pruned"].items() if kept.get("seen") is not None}
        self.__wanted = None

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        """A run that goes on where a limit was raised: what its end has done is undone."""
        if self.__permanent is not None and trainer.leyden_fit.progress.done < Done.EPOCH_TOLD:
            masks.put(self.__targets(), self.__permanent)
            self.__permanent = None
        before, self.__before_end = self.__before_end, None
        if before is not None and not End(trainer).is_cut():
            masks.put(self.__targets(), before)
        masks.go_on_with(self.__targets(), self.__seen)
        self.__wanted, self.__seen = None, {}

    def __named(self, number: int) -> str:
        assert self.__names is not None
        return self.__names[number]

    def __targets(self) -> dict[str, masks.Pair]:
        """What is pruned, by its name in the whole module."""
        return {} if self.__names is None else dict(zip(self.__names, self._parameters_to_prune, strict=True))

    def __originals(self) -> Iterator[tuple[nn.Module, int, str]]:
        """The layers as they were, the number of each of their parameters to prune, and its name in them."""
        for each in (self._original_layers or {}).values():
            for number, name in each["names"]:
                yield each["data"], number, name

    # -- pruning
    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if self._prune_on_train_epoch_end:
            if not trainer.leyden_fit.progress.closed:
                self.__before_end = masks.cloned(masks.taken(self.__targets(), self.__seen, all_of_them=True))
            self.__prune(trainer)

    def on_validation_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if trainer.leyden_fitting and not trainer.sanity_checking and not self._prune_on_train_epoch_end:
            self.__prune(trainer)

    def __prune(self, trainer: Run) -> None:
        self._run_pruning(trainer.current_epoch)
        if not trainer.strategy.processes.alone:
            masks.make_one(self._parameters_to_prune)

    def _run_pruning(self, current_epoch: int) -> None:
        wished = self._apply_pruning(current_epoch) if callable(self._apply_pruning) else self._apply_pruning
        amount: Any = self.amount(current_epoch) if callable(self.amount) else self.amount
        if not wished or not amount:
            return
        amount = _checked_amount(amount)
        with torch.inference_mode(False), torch.enable_grad():  # as outside of a validation
            self.apply_pruning(amount)
            lottery = self._use_lottery_ticket_hypothesis
            if lottery(current_epoch) if callable(lottery) else lottery:
                self.apply_lottery_ticket_hypothesis()

    def apply_pruning(self, amount: int | float) -> None:
        """Prune so much of the parameters now."""
        self.__check_room(amount)
        before = masks.counts(self._parameters_to_prune) if self._verbose else []
        try:
            if self._use_global_unstructured:
                takes = inspect.signature(self.pruning_fn).parameters
                given = {name: value for name, value in {**self._global_kwargs, "amount": amount}.items() if name in takes}
                method: Any = self.pruning_fn
                prune.global_unstructured(list(self._parameters_to_prune), pruning_method=method, **given)
            else:
                for module, name in self._parameters_to_prune:
                    self.pruning_fn(module, name=name, amount=amount)
        except ValueError as error:  # less is left than was asked for
            raise InvalidOption("amount", amount, f"no more than is left ({error})") from error
        if self._verbose:
            self.__log(before, amount)

    def __log(self, before: list[tuple[int, int]], amount: int | float) -> None:
        after, method = masks.counts(self._parameters_to_prune), self._pruning_method_name
        total = sum(size for _, size in after)
        then, now = (sum(zeros for zeros, _ in counts) for counts in (before, after))
        rank_zero_info(f"{method} (amount {amount}): {now} of {total} values are pruned ({now / total:.2%}), before {then}.")
        if self._verbose == 2:
            for number, ((was, _), (zeros, size)) in enumerate(zip(before, after, strict=True)):
                rank_zero_info(f"  {self.__named(number)}: {zeros} of {size} ({zeros / size:.2%}), before {was}")

    def apply_lottery_ticket_hypothesis(self) -> None:
        """Give the parameters to prune their initial values back, or new random ones; masks stay."""
        for each in (self._original_layers or {}).values():
            layer = each["data"]
            if self._resample_parameters and callable(getattr(layer, "reset_parameters", None)):
                layer = deepcopy(layer)  # what it was like is kept
                layer.reset_parameters()
            for number, name in each["names"]:
                target = masks.parameter_of(*self._parameters_to_prune[number])
                if target is not None:
                    target.data.copy_(getattr(layer, name).data)

    def make_pruning_permanent(self, module: nn.Module) -> None:
        """Make every pruned parameter in ``module`` an ordinary one again, with its zeros."""
        masks.make_ordinary(module)

    def on_train_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if self._make_pruning_permanent:
            for each in trainer.callbacks:
                if isinstance(each, ModelPruning) and each.__permanent is None:  # their masks go with ours
                    each.__permanent = masks.cloned(masks.taken(each.__targets(), each.__seen))
            self.make_pruning_permanent(pl_module)

    # -- kept
    def state_dict(self) -> dict[str, Any]:
        pruned = self.__permanent
        if pruned is None:
            taken = masks.taken(self.__targets(), self.__seen)
            # masks and parameters stand in the module's own state, where that is not made an ordinary one
            pruned = taken if self._make_pruning_permanent else {name: {**kept, "orig": None} for name, kept in taken.items()}
        return {
            "pruned": pruned,
            "initial": {self.__named(number): getattr(layer, name).detach() for layer, number, name in self.__originals()},
            "permanent": self.__permanent is not None,
            "before_end": self.__before_end,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__wanted = state_dict

    def on_save_checkpoint(self, trainer: Run, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.leyden_put_weights(pl_module, checkpoint)

    def leyden_put_weights(self, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._make_pruning_permanent:
            checkpoint["state_dict"] = masks.as_ordinary(checkpoint["state_dict"])


def _switch(name: str, given: Any) -> Any:
    return check_function(name, given, 1, "a function of the epoch") if callable(given) else check_bool(name, given)


def _checked_amount(given: Any) -> int | float:
    amount = check_number("amount", given, _AMOUNT)
    if not (amount >= 0 if isinstance(amount, int) else 0.0 <= amount <= 1.0):
        raise InvalidOption("amount", given, _AMOUNT)
    return amount


def _is_pair(given: Any) -> bool:
    return isinstance(given, list | tuple) and len(given) == 2 and isinstance(given[0], nn.Module) and isinstance(given[1], str)


def _rank(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.dim()
