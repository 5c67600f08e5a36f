"""The 2020 dialect: old argument names, dict returns, ``*_epoch_end(outputs)``. All of its tables stand here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.devices.accelerators import parse_gpus
from leyden.errors import ConflictingOptions, InvalidOption, InvalidReturn, LegacyNotice, UnknownName, Unsupported, did_you_mean
from leyden.hooks import HOOK_NAMES, fitted, one_edit_apart, overrides
from leyden.module import LightningModule
from leyden.state.gradients import grad_norm
from leyden.state.metrics import AskedLog
from leyden.state.run import Run

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer

_noticed: set[str] = set()


def notice(name: str, today: str, stacklevel: int = 4) -> None:
    """Say once per process what ``name`` is called today."""
    if name not in _noticed:
        _noticed.add(name)
        warnings.warn(
            f"{name} is a name of an older Lightning. It works; today's is {today}.", LegacyNotice, stacklevel=stacklevel
        )


# -- the Trainer's arguments
Translation = Callable[[str, Any, dict[str, Any], "Classic"], None]


@dataclass
class Classic:
    """Today's keywords for what was given in yesterday's, and what has no keyword of today."""

    keywords: dict[str, Any]
    resume_from: Any = None


def _renamed(new: str) -> Translation:
    def translate(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
        if value is not None:
            _set(old, new, value, keywords)

    return translate


def _set(old: str, new: str, value: Any, keywords: dict[str, Any]) -> None:
    if new in keywords.get("_given", ()):
        raise ConflictingOptions(
            f"{old}={value!r} and {new}={keywords[new]!r} were both passed, and mean the same. Leave {old} out."
        )
    keywords[new] = value


_AMP = "Mixed precision is PyTorch's own now: precision='16-mixed'."
_LATER = "It is not offered yet: "


def _refused(alternative: str, *harmless: Any) -> Translation:
    def translate(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
        if not any(value is each or (type(value) is type(each) and value == each) for each in harmless):
            raise Unsupported(f"{old}={value!r} is not offered. {alternative}")

    return translate


def _share(new: str) -> Translation:
    """0.7's shares are floats, and 1.0 there is everything."""

    def translate(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InvalidOption(old, value, "a share of the batches from 0.0 to 1.0")
        _set(old, new, float(value), keywords)

    return translate


def _gpus(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    for new, chosen in parse_gpus(value).items():
        _set(old, new, chosen, keywords)


def _add_callback(keywords: dict[str, Any], callback: Callback) -> None:
    given = keywords.get("callbacks")
    listed = [] if given is None else [given] if isinstance(given, Callback) else list(given)
    keywords["callbacks"] = [*listed, callback]


def _checkpoint_callback(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if isinstance(value, Callback):
        _add_callback(keywords, value)
    elif value is None or isinstance(value, bool):
        _set(old, "enable_checkpointing", bool(value), keywords)
    else:
        raise InvalidOption(old, value, "True, False, or a ModelCheckpoint")


def _early_stop_callback(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if isinstance(value, Callback):
        _add_callback(keywords, value)
    elif value is True:
        from leyden.callbacks.early_stopping import EarlyStopping

        _add_callback(keywords, EarlyStopping(monitor="val_loss", patience=3, verbose=True, mode="min"))
    elif value not in (False, None):
        raise InvalidOption(old, value, "True, False, or an EarlyStopping")


def _bar_rate(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value is None:
        return
    if value == 0:
        _set(old, "enable_progress_bar", False, keywords)
        return
    from leyden.callbacks.progress.rich_progress import RichProgressBar

    _add_callback(keywords, RichProgressBar(refresh_rate=value))


def _process_position(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value:
        from leyden.callbacks.progress.tqdm_progress import TQDMProgressBar

        _add_callback(keywords, TQDMProgressBar(process_position=value))


def _weights_summary(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value is None:
        _set(old, "enable_model_summary", False, keywords)
        return
    depths = {"full": -1, "top": 1}
    if value not in depths:
        raise InvalidOption(old, value, "'full', 'top' or None")
    from leyden.callbacks.model_summary import ModelSummary

    _add_callback(keywords, ModelSummary(max_depth=depths[value]))


def _weights_save_path(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value is None:
        return
    from leyden.callbacks.model_checkpoint import default_checkpoint

    _add_callback(keywords, default_checkpoint(dirpath=value))


def _distributed_backend(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value in ("dp", "ddp2"):
        raise Unsupported(f"{old}={value!r} is not offered: it has been given up for strategy='ddp'. Use {old}='ddp'.")
    if value is not None:
        _set(old, "strategy", value, keywords)


def _use_amp(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value:
        _set(old, "precision", 16, keywords)


def _track_grad_norm(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value == -1:
        return
    if isinstance(value, bool) or not (value == "inf" or (isinstance(value, int | float) and value > 0)):
        raise InvalidOption(old, value, "a positive number (the norm's p), 'inf', or -1 for off")
    _add_callback(keywords, GradNorms(value))


def _print_nan_grads(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value:
        _add_callback(keywords, NanGrads())


def _log_save_interval(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOption(old, value, "a number of batches >= 1")
    if keywords.get("logger") in (None, True):
        from leyden.assemble import LOG_FOLDER
        from leyden.loggers.csv import CSVLogger
        from leyden.options import Options

        root = Options.read_root(keywords.get("default_root_dir"))
        keywords["logger"] = CSVLogger(root, name=LOG_FOLDER, flush_logs_every_n_steps=value)


def _reload_every_epoch(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value:
        _set(old, "reload_dataloaders_every_n_epochs", 1, keywords)


def _resume_from(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    classic.resume_from = value


def _terminate_on_nan(old: str, value: Any, keywords: dict[str, Any], classic: Classic) -> None:
    if value is not None:
        _set(old, "stop_on_nonfinite_loss", bool(value), keywords)


TRAINER: dict[str, tuple[str, Translation]] = {
    # old name: (today's, in words), how it is read
    "gpus": ("accelerator='gpu', devices=...", _gpus),
    "resume_from_checkpoint": ("fit(ckpt_path=...)", _resume_from),
    "checkpoint_callback": ("enable_checkpointing=... or callbacks=[ModelCheckpoint(...)]", _checkpoint_callback),
    "early_stop_callback": ("callbacks=[EarlyStopping(...)]", _early_stop_callback),
    "default_save_path": ("default_root_dir", _renamed("default_root_dir")),
    "gradient_clip": ("gradient_clip_val", _renamed("gradient_clip_val")),
    "process_position": ("callbacks=[TQDMProgressBar(process_position=...)]", _process_position),
    "nb_gpu_nodes": ("num_nodes", _renamed("num_nodes")),
    "num_tpu_cores": ("accelerator", _refused("There is no support for TPUs; use accelerator='gpu' or 'cpu'.", None, 0)),
    "tpu_cores": ("accelerator", _refused("There is no support for TPUs; use accelerator='gpu' or 'cpu'.", None, 0)),
    "log_gpu_memory": ("torch.cuda.memory_stats() in a callback", _refused(
        "Log torch.cuda.max_memory_allocated() in a callback's on_train_batch_end.", None, False)),
    "show_progress_bar": ("enable_progress_bar", _renamed("enable_progress_bar")),
    "progress_bar_refresh_rate": ("callbacks=[RichProgressBar(refresh_rate=...)]", _bar_rate),
    "overfit_pct": ("overfit_batches", _share("overfit_batches")),
    "track_grad_norm": ("leyden.utilities.grad_norm in on_before_optimizer_step", _track_grad_norm),
    "max_nb_epochs": ("max_epochs", _renamed("max_epochs")),
    "min_nb_epochs": ("min_epochs", _renamed("min_epochs")),
    "train_percent_check": ("limit_train_batches", _share("limit_train_batches")),
    "val_percent_check": ("limit_val_batches", _share("limit_val_batches")),
    "test_percent_check": ("limit_test_batches", _share("limit_test_batches")),
    "log_save_interval": ("CSVLogger(flush_logs_every_n_steps=...)", _log_save_interval),
    "flush_logs_every_n_steps": ("CSVLogger(flush_logs_every_n_steps=...)", _log_save_interval),
    "row_log_interval": ("log_every_n_steps", _renamed("log_every_n_steps")),
    "add_row_log_interval": ("log_every_n_steps", _renamed("log_every_n_steps")),
    "distributed_backend": ("strategy", _distributed_backend),
    "use_amp": ("precision=16", _use_amp),
    "print_nan_grads": ("detect_anomaly=True", _print_nan_grads),
    "weights_summary": ("callbacks=[ModelSummary(max_depth=...)]", _weights_summary),
    "weights_save_path": ("callbacks=[ModelCheckpoint(dirpath=...)]", _weights_save_path),
    "amp_level": ("precision='16-mixed'", _refused(_AMP, None, "O1")),
    "amp_backend": ("precision='16-mixed'", _refused(_AMP, None, "native")),
    "nb_sanity_val_steps": ("num_sanity_val_steps", _renamed("num_sanity_val_steps")),
    "truncated_bptt_steps": ("manual optimization", _refused(
        "Split the batch along time in training_step, with automatic_optimization = False, and detach the hidden state.", None)),
    "reload_dataloaders_every_epoch": ("reload_dataloaders_every_n_epochs=1", _reload_every_epoch),
    "replace_sampler_ddp": ("use_distributed_sampler", _renamed("use_distributed_sampler")),
    "terminate_on_nan": ("stop_on_nonfinite_loss", _terminate_on_nan),
    "num_processes": ("devices", _renamed("devices")),
    "auto_lr_find": ("Tuner(trainer).lr_find(model)", _refused(_LATER + "choose the learning rate yourself.", None, False)),
    "auto_scale_batch_size": ("Tuner(trainer).scale_batch_size(model)", _refused(
        "It is not offered yet: choose the batch size yourself.", None, False)),
    "auto_select_gpus": ("devices", _refused("Choose by devices=.", None, False)),
    "ipus": ("accelerator", _refused("There is no support for IPUs; use accelerator='gpu' or 'cpu'.", None)),
    "stochastic_weight_avg": ("torch.optim.swa_utils", _refused("Average in a callback, with its tools.", None, False)),
    "move_metrics_to_cpu": ("nothing: metrics are read in bulk", _refused("Metrics wait on the device.", None, False)),
    "multiple_trainloader_mode": ("CombinedLoader(loaders, mode)", _refused(
        "Pass CombinedLoader(loaders, mode=...) as the training loader.", None, "max_size_cycle")),
}  # fmt: skip


def translate(legacy: Mapping[str, Any], given: Mapping[str, Any]) -> Classic:
    """Today's keywords from both; raises :class:`UnknownName` for a name of neither."""
    classic = Classic(dict(given))
    keywords = classic.keywords
    if isinstance(keywords.get("profiler"), bool):
        notice(f"Trainer(profiler={keywords['profiler']})", "profiler='simple' or None")
        keywords["profiler"] = "simple" if keywords["profiler"] else None
    keywords["_given"] = changed_names(given)
    for name, value in legacy.items():
        if name not in TRAINER:
            known = [*given, *TRAINER]
            raise UnknownName(f"Trainer got an unknown argument {name!r}.{did_you_mean(name, known)}")
        today, read = TRAINER[name]
        notice(f"Trainer({name}=...)", today)
        read(name, value, keywords, classic)
    del keywords["_given"]
    return classic


def changed_names(given: Mapping[str, Any]) -> set[str]:
    """The keywords that were given another value than their default."""
    import inspect

    from leyden.trainer.trainer import Trainer

    defaults = inspect.signature(Trainer.__init__).parameters
    return {name for name, value in given.items() if value is not defaults[name].default and value != defaults[name].default}


def fit_loaders(legacy: dict[str, Any], train: Any, val: Any) -> dict[str, Any]:
    """The loaders of ``fit``, ``train_dataloader=`` and ``test_dataloaders=`` of 0.7 among them."""
    test = None
    for name, value in legacy.items():
        if name == "train_dataloader":
            notice("fit(train_dataloader=...)", "train_dataloaders")
            if train is not None:
                raise ConflictingOptions("train_dataloader= and train_dataloaders= were both passed. Leave the first out.")
            train = value
        elif name == "val_dataloader":
            notice("fit(val_dataloader=...)", "val_dataloaders")
            val = value
        elif name == "test_dataloaders":
            notice("fit(test_dataloaders=...)", "test(dataloaders=...)")
            test = value
        else:
            known = ["model", "train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only"]
            raise UnknownName(f"fit got an unknown argument {name!r}.{did_you_mean(name, known)}")
    return {"train": train, "val": val, "test": test}


def test_loaders(legacy: dict[str, Any], dataloaders: Any) -> Any:
    """The loaders of ``test``, ``test_dataloaders=`` of 0.7 among them."""
    for name, value in legacy.items():
        if name != "test_dataloaders":
            known = ["model", "dataloaders", "ckpt_path", "verbose", "datamodule", "weights_only"]
            raise UnknownName(f"test got an unknown argument {name!r}.{did_you_mean(name, known)}")
        notice("test(test_dataloaders=...)", "dataloaders")
        dataloaders = value
    return dataloaders


# -- modules and callbacks
EPOCH_ENDS = {"train": "training_epoch_end", "val": "validation_epoch_end", "test": "test_epoch_end"}
STEP_ENDS = {"training_step": "training_step_end", "validation_step": "validation_step_end", "test_step": "test_step_end"}
STEP_ALIASES = {"val_step": "validation_step"}
# hook of 0.7: (today's hook, whether it was told the batch)
OLD_HOOKS: dict[str, tuple[str, ...]] = {
    "on_epoch_start": ("on_train_epoch_start",),
    "on_epoch_end": ("on_train_epoch_end",),
    "on_batch_start": ("on_train_batch_start",),
    "on_batch_end": ("on_train_batch_end",),
    "on_pre_performance_check": ("on_validation_start",),
    "on_post_performance_check": ("on_validation_end",),
    "on_sanity_check_start": ("on_sanity_check_start",),
    "on_sanity_check_end": ("on_sanity_check_end",),
}
MODULE_NAMES = frozenset(
    {
        *("configure_optimizer", "val_step", *EPOCH_ENDS.values(), *STEP_ENDS.values(), *OLD_HOOKS),
        *("tbptt_split_batch", "get_tqdm_dict", "get_progress_bar_dict", "summarize", "load_from_metrics"),
    }
)
CALLBACK_NAMES = frozenset({"on_epoch_start", "on_epoch_end", "on_batch_start", "on_batch_end", "on_init_start", "on_init_end"})
DATAMODULE_NAMES: frozenset[str] = frozenset()
RETURNED = ("loss", "log", "logs", "progress_bar", "hiddens")

_BAR_AND_LOGGER: AskedLog = (True, True, None, None, "mean", True, False, False)
_BAR: AskedLog = (True, False, None, None, "mean", True, False, False)
_LOGGER: AskedLog = (False, True, None, None, "mean", True, False, False)
_NEITHER: AskedLog = (False, False, None, None, "mean", True, False, False)


@dataclass
class Adapter:
    """What stands between a module of any year and the core."""

    module: LightningModule
    steps: dict[str, Callable[..., Any]] = field(default_factory=dict)
    callbacks: list[Callback] = field(default_factory=list)
    read_mapping: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] = lambda stage, outputs: outputs


def adapt(run: Run, module: LightningModule) -> Adapter:
    """Find what ``module`` and the callbacks say in the old dialect, once, when a verb starts."""
    adapter = Adapter(module)
    has = {name for name in MODULE_NAMES if callable(getattr(module, name, None))}
    if "configure_optimizer" in has and not overrides(module, LightningModule.configure_optimizers):
        notice("configure_optimizer", "configure_optimizers", 6)
        adapter.steps["configure_optimizers"] = getattr(module, "configure_optimizer")  # noqa: B009  # not an attribute that LightningModule has
    for old, new in STEP_ALIASES.items():
        if old in has and not overrides(module, getattr(LightningModule, new)):
            notice(old, new, 6)
            adapter.steps[new] = getattr(module, old)
    for step, end in STEP_ENDS.items():
        if end in has:
            notice(end, step, 6)
            count = 2 if step == "training_step" else 3
            adapter.steps[step] = _then(fitted(adapter.steps.get(step, getattr(module, step)), count), getattr(module, end))
    if overrides(module, LightningModule.optimizer_step):
        adapter.steps["optimizer_step"] = _old_optimizer_step(module)
    reader = Reader(run, module, {stage for stage, name in EPOCH_ENDS.items() if name in has})
    adapter.read_mapping = reader.read
    if any(name in has for name in EPOCH_ENDS.values()):
        adapter.callbacks.append(EpochEnds(module, [stage for stage, name in EPOCH_ENDS.items() if name in has]))
    echoed = {name: getattr(module, name) for name in OLD_HOOKS if name in has}
    for name in echoed:
        notice(name, OLD_HOOKS[name][0], 6)
    listeners: list[tuple[str, Callable[..., Any], bool]] = [(name, method, False) for name, method in echoed.items()]
    for callback in run.callbacks:
        for name in ("on_epoch_start", "on_epoch_end", "on_batch_start", "on_batch_end"):
            method = getattr(callback, name, None)
            if callable(method):
                notice(name, OLD_HOOKS[name][0], 6)
                listeners.append((name, method, True))
    if listeners:
        adapter.callbacks.append(Echo(listeners))
    return adapter


def _then(step: Callable[..., Any], end: Callable[..., Any]) -> Callable[..., Any]:
    def stepped(*arguments: Any) -> Any:
        return end(step(*arguments))

    return stepped


def _old_optimizer_step(module: LightningModule) -> Callable[..., Any]:
    """``optimizer_step`` with the arguments that its author's version had."""
    import inspect

    names = list(inspect.signature(module.optimizer_step).parameters)
    today = {"epoch", "batch_idx", "optimizer", "optimizer_closure"}
    old = {
        "current_epoch",
        "batch_nb",
        "optimizer_idx",
        "optimizer_i",
        "second_order_closure",
        "on_tpu",
        "using_native_amp",
        "using_lbfgs",
    }
    if not any(name in old for name in names):
        return fitted(module.optimizer_step, 4)

    def step(epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> Any:
        values = {
            "epoch": epoch,
            "current_epoch": epoch,
            "batch_idx": batch_idx,
            "batch_nb": batch_idx,
            "optimizer": optimizer,
            "optimizer_idx": 0,
            "optimizer_i": 0,
            "optimizer_closure": closure,
            "second_order_closure": None,
            "on_tpu": False,
            "using_native_amp": False,
            "using_lbfgs": False,
        }
        return module.optimizer_step(**{name: values[name] for name in names if name in values or name in today})

    return step


class Reader:
    """Reads the dicts that steps return: 2020's ``log`` and ``progress_bar``, and scalars where nobody logs."""

    def __init__(self, run: Run, module: LightningModule, collected: set[str]) -> None:
        self.run = run
        self.name = type(module).__name__
        self.collected = collected
        self.ours: set[str] = set()

    def read(self, stage: str, outputs: Any) -> Any:
        """Publish what the dict asks for; returns it unchanged."""
        if not isinstance(outputs, Mapping):
            return outputs
        self._refuse_misspelt(stage, outputs)
        told = tell(outputs)
        if stage == "train":
            if told.nested:
                self._log(told.flags)
                self.run.metrics.publish({name: value for name, value in outputs.items() if _is_scalar(value)})
            return outputs
        if stage in self.collected:
            return outputs
        names = {name for _, name in self.run.metrics.names()}
        if names - self.ours:
            return outputs  # the module logs by itself: what it returns is for its own hooks
        self.ours |= set(told.flags)
        self._log(told.flags)
        return outputs

    def _log(self, flags: Mapping[str, tuple[Any, AskedLog]]) -> None:
        for name, (value, asked) in flags.items():
            self.run.metrics.log(name, value, asked, None)

    def _refuse_misspelt(self, stage: str, outputs: Mapping[Any, Any]) -> None:
        for key, value in outputs.items():
            if key in RETURNED or not isinstance(key, str):
                continue
            near = [name for name in RETURNED if one_edit_apart(key, name)]
            if near and (isinstance(value, Mapping) or (near[0] == "loss" and stage == "train" and "loss" not in outputs)):
                raise UnknownName(
                    f"A step of {self.name} returned a dict with the key {key!r}, which means nothing. Did you mean {near[0]!r}?"
                )


@dataclass
class Told:
    """Scalars of a returned dict, each with how it is to be logged."""

    flags: dict[str, tuple[Any, AskedLog]]
    nested: bool  # whether there was a `log` or `progress_bar`


def tell(outputs: Mapping[str, Any]) -> Told:
    """0.7.1's rule: ``log`` goes to the logger (and, as its readers were told, to the bar), ``progress_bar`` to the bar;
    callbacks see these and every scalar beside them."""
    flags: dict[str, tuple[Any, AskedLog]] = {}
    nested = False
    for name, value in outputs.items():
        if name in ("log", "logs", "progress_bar") or name == "hiddens":
            continue
        if _is_scalar(value):
            flags[name] = (value, _NEITHER)
    for key in ("progress_bar", "log", "logs"):
        values = outputs.get(key)
        if not isinstance(values, Mapping):
            continue
        nested = True
        for name, value in values.items():
            if _is_scalar(value):
                flags[name] = (
                    value,
                    _BAR if key == "progress_bar" and name not in _names(outputs, "log", "logs") else _BAR_AND_LOGGER,
                )
    return Told(
        flags if not nested or "loss" not in outputs else {k: v for k, v in flags.items() if v[1] is not _NEITHER}, nested
    )


def _names(outputs: Mapping[str, Any], *keys: str) -> set[str]:
    return {name for key in keys if isinstance(outputs.get(key), Mapping) for name in outputs[key]}


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    if isinstance(value, bool | int | float):
        return True
    return hasattr(value, "item") and getattr(value, "size", 0) == 1


class EpochEnds(Callback):
    """Collects what the steps return and hands the list to ``*_epoch_end(outputs)``.

    The list grows with the epoch: tensors are detached, and kept on their device, until the epoch's end. Return only what
    the epoch's end needs.
    """

    def __init__(self, module: LightningModule, stages: list[str]) -> None:
        self.module = module
        self.stages = stages
        self.outputs: dict[int, list[Any]] = {}

    def _start(self, stage: str) -> None:
        if stage in self.stages:
            self.outputs = {}

    def _collect(self, stage: str, outputs: Any, loader: int = 0) -> None:
        if stage in self.stages and outputs is not None:
            from leyden.tree import tree_map

            self.outputs.setdefault(loader, []).append(tree_map(outputs, Tensor, Tensor.detach))

    def _finish(self, trainer: Run, stage: str) -> None:
        if stage not in self.stages:
            return
        name = EPOCH_ENDS[stage]
        collected = [self.outputs[loader] for loader in sorted(self.outputs)]
        outputs = collected[0] if len(collected) == 1 else collected
        self.outputs = {}
        notice(name, f"on_{'train' if stage == 'train' else name.removesuffix('_epoch_end')}_epoch_end, with self.log", 8)
        returned = getattr(self.module, name)(outputs)
        if returned is None:
            return
        if not isinstance(returned, Mapping):
            raise InvalidReturn(
                f"{type(self.module).__name__}.{name} returned {type(returned).__name__}. Expected a dict or None."
            )
        for metric, (value, asked) in tell(returned).flags.items():
            trainer.metrics.log(metric, value, asked, None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("train")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._collect("train", outputs or None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, "train")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.train_outputs, self.outputs = self.outputs, {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect("val", outputs, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, "val")
        self.outputs = self.train_outputs

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("test")

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect("test", outputs, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, "test")

    def state_dict(self) -> dict[str, Any]:
        return {"outputs": self.outputs} if self.outputs else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.outputs = dict(state_dict["outputs"])


class Echo(Callback):
    """Calls hooks by their names of 0.7."""

    def __init__(self, listeners: list[tuple[str, Callable[..., Any], bool]]) -> None:
        for today in {hook for hooks in OLD_HOOKS.values() for hook in hooks}:
            mine = [(name, method, full) for name, method, full in listeners if today in OLD_HOOKS[name]]
            if mine:
                setattr(self, today, self._to(mine))

    @staticmethod
    def _to(listeners: list[tuple[str, Callable[..., Any], bool]]) -> Callable[..., None]:
        def hook(trainer: Run, module: LightningModule, *arguments: Any) -> None:
            for name, method, is_callback in listeners:
                if is_callback:
                    fitted(method, 2)(trainer, module)
                elif name == "on_batch_start":
                    fitted(method, 1)(arguments[0])
                else:
                    method()

        return hook


class GradNorms(Callback):
    """``track_grad_norm``: the p-norm of each parameter's gradient, logged before each step."""

    def __init__(self, norm_type: float | int | str) -> None:
        self.norm_type = norm_type

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        pl_module.log_dict(grad_norm(pl_module, self.norm_type, group_separator="_"))


class NanGrads(Callback):
    """``print_nan_grads``: names parameters whose gradients are not finite. Reads the device after every backward."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                trainer.print(f"{name}: gradient is not finite: {parameter.grad}")


def data_loader(function: Callable[..., Any]) -> Callable[..., Any]:
    """0.7's decorator for loader methods: they need none."""
    notice("@data_loader", "no decorator at all", 3)
    return function


__all__ = ["HOOK_NAMES", "TRAINER", "Adapter", "Classic", "LightningDataModule", "adapt", "data_loader", "notice", "translate"]
