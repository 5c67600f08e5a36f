"""What is checked before a verb runs: the module, its names, its steps and its data."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch

from leyden import classic
from leyden.by_position import fitted
from leyden.callback import Callback
from leyden.checkpoint.plain_names import is_wrapper, unwrapped
from leyden.datamodule import LightningDataModule
from leyden.errors import (
    ConflictingOptions,
    EmptyLoader,
    InvalidType,
    MissingMethod,
    PossibleUserWarning,
)
from leyden.hook_facts import hooks_of
from leyden.hooks import HOOK_NAMES, MODULE_HOOKS, overrides
from leyden.inspect.compiled import from_compiled
from leyden.module import LightningModule
from leyden.spelling import refuse_misspelt
from leyden.state.run import Run
from leyden.state.stage import PREDICT, STAGES, Stage, TrainerFn

MODULE_METHODS: frozenset[str] = frozenset({*MODULE_HOOKS, *hooks_of(LightningModule)})
"""What a module may override, and so what a misspelling in it is compared with."""
DATAMODULE_METHODS: frozenset[str] = frozenset(
    name for name, value in vars(LightningDataModule).items() if inspect.isfunction(value) and not name.startswith("_")
)
"""The same of a datamodule: all that it has."""
MODULE_SETTINGS = ("automatic_optimization", "example_input_array", "prepare_data_per_node", "strict_loading")


def check_module(model: Any) -> LightningModule:
    """The module in what was passed as one; a compiled one is taken as what it was compiled from."""
    if is_wrapper(model) and isinstance(unwrapped(model), LightningModule):
        model = from_compiled(model)
    if not isinstance(model, LightningModule):
        raise InvalidType("model", model, "a leyden.LightningModule", module_hint(model))
    if "_parameters" not in model.__dict__:
        raise InvalidType("model", type(model).__name__, "a module whose __init__ calls super().__init__() before anything else")
    model._check_names_taken()
    return model


def check_names(module: LightningModule, datamodule: LightningDataModule | None, callbacks: Iterable[Callback]) -> None:
    """Refuse hooks that are misspelt, before anything runs."""
    refuse_misspelt(
        module,
        LightningModule,
        MODULE_METHODS | classic.RESEMBLED,
        classic.MODULE_NAMES,
        MODULE_SETTINGS,
        _elsewhere(LightningModule),
        classic.passed_over(module),
    )
    if datamodule is not None:
        refuse_misspelt(
            datamodule,
            LightningDataModule,
            DATAMODULE_METHODS,
            attributes=("prepare_data_per_node",),
            elsewhere=_elsewhere(LightningDataModule),
        )
    check_callback_names(callbacks)


@cache
def _elsewhere(base: type) -> dict[str, str]:
    """The hooks that ``base`` has not, and whose they are, but for names that a method of one's own may well have."""
    hooks = {
        "LightningDataModule": DATAMODULE_METHODS,
        "LightningModule": MODULE_METHODS,
        "Callback": HOOK_NAMES,
    }
    return {
        name: owner
        for owner, names in hooks.items()
        for name in names
        if owner != base.__name__ and not hasattr(base, name)
        if name.startswith(("on_", "configure_")) or name.endswith(("_step", "_dataloader"))
    }


def check_callback_names(callbacks: Iterable[Callback]) -> None:
    for callback in callbacks:
        old = classic.CALLBACK_NAMES
        refuse_misspelt(callback, Callback, {*HOOK_NAMES, *old}, old, elsewhere=_elsewhere(Callback))


def check_fit(run: Run, module: LightningModule) -> None:
    """Raise where ``module`` lacks what fit needs."""
    name = type(module).__name__
    if not overrides(module, LightningModule.training_step):
        own = [method for method in dir(type(module)) if "train" in method and "step" in method and method != "training_step"]
        hint = f" Did you mean to call {own[0]!r} that?" if own else ""
        raise MissingMethod(f"{name} has no `training_step`, which fit needs: def training_step(self, batch, batch_idx).{hint}")
    if not overrides(module, LightningModule.configure_optimizers) and (
        run.leyden_steps["configure_optimizers"] == module.configure_optimizers
    ):
        raise MissingMethod(
            f"{name} has no `configure_optimizers`, which fit needs: def configure_optimizers(self): return "
            f"torch.optim.Adam(self.parameters()). To train without an optimizer, let it return None."
        )
    if not run.leyden_loaders.exists("train"):
        raise MissingMethod(
            f"fit has nothing to train on: pass train_dataloaders=, or give {name} (or the datamodule) a `train_dataloader`."
        )


def check_verb(run: Run, module: LightningModule, fn: TrainerFn) -> None:
    """Raise where ``module`` or its data lack what the verb needs."""
    if fn is TrainerFn.FITTING:
        check_fit(run, module)
    elif fn is TrainerFn.PREDICTING:
        require_predict(module)
    else:
        require_step(run, module, STAGES[fn][0])


def require_step(run: Run, module: LightningModule, stage: Stage) -> None:
    """Raise where ``module`` or its data lack what an evaluation needs."""
    step, name = stage.step.__name__, type(module).__name__
    own = getattr(module, step)
    if (not callable(own) or run.leyden_steps[step] == fitted(own, 3)) and not overrides(module, stage.step):
        raise MissingMethod(f"{name} has no `{step}`, which {stage.verb} needs: def {step}(self, batch, batch_idx).")
    if not run.leyden_loaders.exists(stage.key):
        raise MissingMethod(
            f"{stage.verb} has no data: pass dataloaders=, or give {name} (or the datamodule) a `{stage.loader.__name__}`."
        )


def require_predict(module: LightningModule) -> None:
    """Raise where ``module`` has neither a step for prediction nor a forward that could do instead."""
    step: Any = module.predict_step
    has_step = overrides(module, LightningModule.predict_step)
    if step is None or not (has_step or overrides(module, LightningModule.forward)):
        raise MissingMethod(
            f"{type(module).__name__} has no `predict_step`, which predict needs: def predict_step(self, batch, batch_idx). A "
            f"`forward` that takes the batch does too."
        )


def validates(run: Run, module: LightningModule) -> bool:
    """Whether fit validates; where data or step is missing, says which."""
    if run.leyden_options.limits.val == 0:
        return False
    has_loader = run.leyden_loaders.exists("val")
    step: Any = module.validation_step
    has_step = overrides(module, LightningModule.validation_step) or bool(step and run.leyden_steps["validation_step"] != step)
    name = type(module).__name__
    if has_loader and not has_step:
        run.leyden_warn(
            f"There is a validation loader, and {name} has no `validation_step`: no validation runs.", PossibleUserWarning
        )
    elif has_step and not has_loader:
        run.leyden_warn(
            f"{name} has a `validation_step`, and there is no validation loader: no validation runs.", PossibleUserWarning
        )
    return has_loader and has_step


def load_eval(run: Run, stage: Stage) -> None:
    """Load the loaders of an evaluation or prediction; raise where there are none."""
    if not run.leyden_loaders.exists(stage.key):
        raise MissingMethod(
            f"There is no data to {stage.verb}: pass dataloaders=, or give the module (or the datamodule) a "
            f"`{stage.loader.__name__}`."
        )
    indices = stage is PREDICT and any(getattr(each, "leyden_reads_indices", False) for each in run.callbacks)
    if run.leyden_loaders.load_eval(stage, run.leyden_options.limits, indices) is None:
        origin = run.leyden_loaders.origins[stage.key]
        raise EmptyLoader(
            f"{origin.name} {'returned' if origin.given is None else 'is'} no loader at all: None, or an empty list."
        )


def take_datamodule(loaders: Any, datamodule: LightningDataModule | None, name: str) -> tuple[Any, LightningDataModule | None]:
    """A datamodule may stand where loaders do; both at once exclude each other."""
    if isinstance(loaders, LightningModule):
        hint = "The model comes first, and the data after it: are the two swapped?"
        raise InvalidType(name, loaders, "a loader, or several, or a datamodule", hint)
    given: object = datamodule
    if given is not None and not isinstance(given, LightningDataModule):
        hint = "That is the class itself: make an instance of it." if isinstance(given, type) else ""
        raise InvalidType("datamodule", given, "a leyden.LightningDataModule", hint)
    if isinstance(loaders, LightningDataModule):
        if datamodule is not None:
            raise ConflictingOptions(f"A datamodule was passed as {name} and as datamodule. Leave one of them out.")
        return None, loaders
    if loaders is not None and datamodule is not None:
        raise ConflictingOptions(f"{name}= and datamodule= were both passed, and each brings loaders. Leave one of them out.")
    return loaders, datamodule


def module_hint(model: Any) -> str:
    if isinstance(model, type):
        return "That is the class itself: make an instance of it."
    if isinstance(model, torch.nn.Module):
        return "A plain torch module has no training_step: inherit from leyden.LightningModule."
    return ""
