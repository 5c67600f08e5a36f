"""The Trainer's arguments of older Lightnings: one table from each name to today's."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from leyden.asked import replaces_default
from leyden.assemble import as_callbacks
from leyden.callback import Callback
from leyden.checked import check_bool, check_count, plain_number
from leyden.classic.gradients import GradNorms, NanGrads
from leyden.devices.accelerators import parse_gpus
from leyden.errors import (
    ConflictingOptions,
    InvalidOption,
    InvalidType,
    LeydenWarning,
    UnknownName,
    Unsupported,
    did_you_mean,
    warn_user,
)
from leyden.notices import notice
from leyden.strategies.base import Strategy


@dataclass
class Classic:
    """Today's keywords for what was given in yesterday's, and what has no keyword of today."""

    keywords: dict[str, Any]
    given: set[str] = field(default_factory=set)  # today's keywords that hold what the caller or an old name said
    legacy: Mapping[str, Any] = field(default_factory=dict)
    resume_from: Any = None
    assigned: Any = None
    """What ``trainer.ckpt_path`` was set to."""
    stretch: int | None = None  # time steps of truncated backpropagation
    loader_mode: Any = None  # how several training loaders are read side by side
    test_loaders: Any = None  # what `fit` was given for a later `test`
    finders: list[Callback] = field(default_factory=list)  # of what is to be searched: by `tune`, else in `fit`

    def path_for(self, ckpt_path: Any, is_trained: bool = False) -> Any:
        """The checkpoint that a verb takes which was given ``ckpt_path``; a module that is trained is resumed already."""
        if ckpt_path is None:
            return self.assigned if self.assigned is not None or is_trained else self.resume_from
        if self.assigned is not None:
            warn_user(
                f"trainer.ckpt_path was set to {self.assigned!r}, and ckpt_path={ckpt_path!r} was passed, which is taken. The "
                f"other is forgotten.",
                LeydenWarning,
            )
            self.assigned = None
        return ckpt_path

    def set(self, old: str, new: str, value: Any) -> None:
        """Take ``value`` for ``new``; raises :class:`ConflictingOptions` where that was given another value."""
        if new in self.given and self.keywords[new] != value:
            raise ConflictingOptions(
                f"{old}={self.legacy.get(old, value)!r} and {new}={self.keywords[new]!r} were both passed, and mean the same. "
                f"Leave {old} out."
            )
        self.keywords[new] = value
        self.given.add(new)

    def search_in_fit(self, finder: Callback) -> None:
        """As 0.7 did, unless ``tune`` has done so before, as from 0.9 on."""
        self.finders.append(finder)
        self.add_callback(finder)

    def add_callback(self, callback: Callback) -> None:
        self.keywords["callbacks"] = [*as_callbacks(self.keywords.get("callbacks"), "callbacks"), callback]


Translation = Callable[[str, Any, Classic], None]


def _renamed(new: str) -> Translation:
    def translate(old: str, value: Any, classic: Classic) -> None:
        if value is not None:
            classic.set(old, new, value)

    return translate


def _refused(alternative: str, *harmless: Any) -> Translation:
    def translate(old: str, value: Any, classic: Classic) -> None:
        if not any(value is each or (type(value) is type(each) and value == each) for each in harmless):
            raise Unsupported(f"{old}={value!r} is not offered. {alternative}")

    return translate


def _share(new: str) -> Translation:
    """0.7's shares are floats, and 1.0 there is everything."""

    def translate(old: str, value: Any, classic: Classic) -> None:
        expected = "a share of the batches from 0.0 to 1.0"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidType(old, value, expected)
        if not 0 <= value <= 1:
            raise InvalidOption(old, value, expected, f"For a number of batches pass {new}={value!r}.")
        classic.set(old, new, float(value))

    return translate


def _gpus(old: str, value: Any, classic: Classic) -> None:
    if value is None and {"accelerator", "devices"} & classic.given:
        return  # "not said", as in the years between
    chosen = parse_gpus(value)
    if chosen["accelerator"] == "cpu" and classic.legacy.get("num_processes") is not None:
        chosen.pop("devices")  # the other name counts them
    for new, each in chosen.items():
        classic.set(old, new, each)


def _num_processes(old: str, value: Any, classic: Classic) -> None:
    """Counted processes of the CPU; with GPUs there was one for each of them."""
    if value is not None and classic.keywords.get("accelerator") != "gpu":
        classic.set(old, "devices", value)


def _checkpoint_callback(old: str, value: Any, classic: Classic) -> None:
    from leyden.callbacks.checkpoint import Checkpoint
    from leyden.callbacks.model_checkpoint import ModelCheckpoint

    if isinstance(value, Checkpoint):
        if isinstance(value, ModelCheckpoint):
            value.choose_monitor()
        classic.add_callback(value)
    elif value is None or isinstance(value, bool):
        classic.set(old, "enable_checkpointing", bool(value))
    else:
        raise InvalidType(old, value, "True, False, or a ModelCheckpoint")


def _early_stop_callback(old: str, value: Any, classic: Classic) -> None:
    from leyden.callbacks.early_stopping import EarlyStopping

    if isinstance(value, EarlyStopping):
        classic.add_callback(value)
    elif value is True:
        classic.add_callback(EarlyStopping(monitor="val_loss", patience=3, verbose=True, mode="min"))
    elif value is not False and value is not None:
        raise InvalidType(old, value, "True, False, or an EarlyStopping")


def _bar_rate(old: str, value: Any, classic: Classic) -> None:
    if value is None:
        return
    rate = check_count(old, value, 0, "a number of batches >= 1, or 0 for no bar")
    if rate == 0:
        classic.set(old, "enable_progress_bar", False)
    elif classic.keywords.get("enable_progress_bar") is False:
        return
    elif classic.legacy.get("process_position"):
        from leyden.callbacks.progress.tqdm_progress import TQDMProgressBar

        classic.add_callback(TQDMProgressBar(refresh_rate=rate, process_position=classic.legacy["process_position"]))
    else:
        from leyden.callbacks.progress.rich_progress import RichProgressBar

        classic.add_callback(RichProgressBar(refresh_rate=rate))


def _process_position(old: str, value: Any, classic: Classic) -> None:
    position = check_count(old, value, 0, "the bar's line, counted from 0")
    if (
        position
        and classic.legacy.get("progress_bar_refresh_rate") is None
        and classic.keywords["enable_progress_bar"] is not False
    ):
        from leyden.callbacks.progress.tqdm_progress import TQDMProgressBar

        classic.add_callback(TQDMProgressBar(process_position=position))


def _weights_summary(old: str, value: Any, classic: Classic) -> None:
    if value is None:
        classic.set(old, "enable_model_summary", False)
        return
    depths = {"full": -1, "top": 1}
    if not isinstance(value, str) or value not in depths:
        raise InvalidOption(old, value, "'full', 'top' or None")
    classic.set(old, "enable_model_summary", True)
    from leyden.callbacks.model_summary import ModelSummary

    classic.add_callback(ModelSummary(max_depth=depths[value]))


def _weights_save_path(old: str, value: Any, classic: Classic) -> None:
    if value is None or classic.keywords.get("enable_checkpointing") is False:
        return
    callbacks = as_callbacks(classic.keywords.get("callbacks"), "callbacks")
    writers = [callback for callback in callbacks if replaces_default(callback)]
    if writers:
        raise ConflictingOptions(
            f"{old}={value!r} and a {type(writers[0]).__name__} were both passed. Leave {old} out, and give the folder to the "
            f"callback as dirpath."
        )
    from leyden.callbacks.default_checkpoint import default_checkpoint

    classic.add_callback(default_checkpoint(dirpath=value))


def _leaves_devices(classic: Classic) -> bool:
    """Whether nobody asked for anything but the CPU."""
    if {"num_processes", "tpu_cores"} & classic.legacy.keys() or {"strategy", "num_nodes"} & classic.given:
        return False
    asked = {name: classic.keywords.get(name) for name in ("accelerator", "devices") if name in classic.given}
    return asked.get("accelerator", "cpu") == "cpu" and asked.get("devices", 1) in (1, "auto")


def _distributed_backend(old: str, value: Any, classic: Classic) -> None:
    if value == "ddp" and classic.legacy.get("num_processes") not in (None, 1) and "accelerator" not in classic.given:
        value = "ddp_cpu"
    if value in ("dp", "ddp", "ddp2") and classic.legacy.get("gpus") in (None, 0, "0", "", []) and _leaves_devices(classic):
        classic.keywords["accelerator"], classic.keywords["devices"] = "cpu", 1  # without GPUs it was one process
        return
    if value in ("dp", "ddp2"):
        raise Unsupported(f"{old}={value!r} is not offered: it has been given up for strategy='ddp'. Use {old}='ddp'.")
    if value == "ddp_cpu":
        classic.set(old, "accelerator", "cpu")
        value = "ddp"
    if value is not None:
        classic.set(old, "strategy", value)


def _use_amp(old: str, value: Any, classic: Classic) -> None:
    if value is not None and check_bool(old, value):
        classic.set(old, "precision", 16)


def _track_grad_norm(old: str, value: Any, classic: Classic) -> None:
    if value == -1 and not isinstance(value, bool):
        return
    if isinstance(value, bool) or not (value == "inf" or (isinstance(value, int | float) and value > 0)):
        raise InvalidOption(old, value, "a positive number (the norm's p), 'inf', or -1 for off")
    classic.add_callback(GradNorms(value))


def _print_nan_grads(old: str, value: Any, classic: Classic) -> None:
    if check_bool(old, value):
        classic.add_callback(NanGrads())


def _log_save_interval(old: str, value: Any, classic: Classic) -> None:
    if value is None:
        return
    every = check_count(old, value, 1, "a number of batches >= 1")
    if classic.keywords.get("logger") in (None, True):
        from leyden.assemble import default_logger
        from leyden.options import Options

        root = Options.read_root(classic.keywords.get("default_root_dir"))
        classic.keywords["logger"] = default_logger(root, flush_logs_every_n_steps=every)


def _reload_every_epoch(old: str, value: Any, classic: Classic) -> None:
    if check_bool(old, value):
        classic.set(old, "reload_dataloaders_every_n_epochs", 1)


def _resume_from(old: str, value: Any, classic: Classic) -> None:
    import os

    if value is not None and not isinstance(value, str | os.PathLike):
        raise InvalidType(old, value, "the path of a checkpoint, or None")
    classic.resume_from = value


def _stretch(old: str, value: Any, classic: Classic) -> None:
    classic.stretch = None if value is None else check_count(old, value, 1, "a number of time steps >= 1, or None")


def _nothing(old: str, value: Any, classic: Classic) -> None:
    """Taken, and without a meaning today."""


def _loader_mode(old: str, value: Any, classic: Classic) -> None:
    modes = ("min_size", "max_size_cycle", "max_size", "sequential")
    if value is not None and value not in modes:
        raise InvalidOption(old, value, "one of " + ", ".join(map(repr, modes)))
    classic.loader_mode = value


def _terminate_on_nan(old: str, value: Any, classic: Classic) -> None:
    if value is not None:
        classic.set(old, "stop_on_nonfinite_loss", check_bool(old, value))


def _stochastic_weight_avg(old: str, value: Any, classic: Classic) -> None:
    from leyden.callbacks.stochastic_weight_avg import StochasticWeightAveraging

    if value is not None and check_bool(old, value):
        classic.add_callback(StochasticWeightAveraging.leyden_at_trainings_rates())


def _log_gpu_memory(old: str, value: Any, classic: Classic) -> None:
    from leyden.callbacks.device_stats_monitor import DeviceStatsMonitor

    if value is None or value is False:
        return
    if value not in ("all", "min_max", True):
        raise InvalidOption(old, value, "'all', 'min_max' or None")
    if classic.keywords.get("logger") is not False:  # where it had nobody to tell, nothing was asked
        classic.add_callback(DeviceStatsMonitor(cpu_stats=False))


def _auto_lr_find(old: str, value: Any, classic: Classic) -> None:
    from leyden.callbacks.lr_finder import LearningRateFinder

    if value is None or value is False:
        return
    if value is not True and not isinstance(value, str):
        raise InvalidType(old, value, "True, False, or the name of the attribute that holds the learning rate")
    classic.search_in_fit(LearningRateFinder(attr_name="" if value is True else value))


def _auto_scale_batch_size(old: str, value: Any, classic: Classic) -> None:
    from leyden.classic.tuning import BatchSizeFinderOfFit

    if value is None or value is False:
        return
    if value is not True and value not in BatchSizeFinderOfFit.SUPPORTED_MODES:
        raise InvalidOption(old, value, "True, False, 'power' or 'binsearch'")
    classic.search_in_fit(BatchSizeFinderOfFit("power" if value is True else value))


_NAMES_A_STRATEGY = re.compile("^(ddp|fsdp|deepspeed)")
_AMP = "Mixed precision is PyTorch's own now: precision='16-mixed'."
_TPU = "There is no support for TPUs; use accelerator='gpu' or 'cpu'."

TRAINER: dict[str, tuple[str, Translation]] = {
    # old name: (today's, in words), how it is read; in this order
    "gpus": ("accelerator='gpu', devices=...", _gpus),
    "resume_from_checkpoint": ("fit(ckpt_path=...)", _resume_from),
    "checkpoint_callback": ("enable_checkpointing=... or callbacks=[ModelCheckpoint(...)]", _checkpoint_callback),
    "early_stop_callback": ("callbacks=[EarlyStopping(...)]", _early_stop_callback),
    "default_save_path": ("default_root_dir", _renamed("default_root_dir")),
    "gradient_clip": ("gradient_clip_val", _renamed("gradient_clip_val")),
    "nb_gpu_nodes": ("num_nodes", _renamed("num_nodes")),
    "num_tpu_cores": ("accelerator", _refused(_TPU, None, 0)),
    "tpu_cores": ("accelerator", _refused(_TPU, None, 0)),
    "log_gpu_memory": ("callbacks=[DeviceStatsMonitor()]", _log_gpu_memory),
    "show_progress_bar": ("enable_progress_bar", _renamed("enable_progress_bar")),
    "progress_bar_refresh_rate": ("callbacks=[RichProgressBar(refresh_rate=...)]", _bar_rate),
    "process_position": ("callbacks=[TQDMProgressBar(process_position=...)]", _process_position),
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
    "amp_level": ("precision='16-mixed'", _refused(_AMP, None, "O1", "O2")),
    "amp_backend": ("precision='16-mixed'", _refused(_AMP, None, "native")),
    "nb_sanity_val_steps": ("num_sanity_val_steps", _renamed("num_sanity_val_steps")),
    "truncated_bptt_steps": ("a loop over the time steps in training_step, with automatic_optimization = False", _stretch),
    "reload_dataloaders_every_epoch": ("reload_dataloaders_every_n_epochs=1", _reload_every_epoch),
    "replace_sampler_ddp": ("use_distributed_sampler", _renamed("use_distributed_sampler")),
    "terminate_on_nan": ("stop_on_nonfinite_loss", _terminate_on_nan),
    "num_processes": ("devices", _num_processes),
    "automatic_optimization": ("the module's attribute automatic_optimization", _refused(
        "Set self.automatic_optimization = False in the module's __init__.", None, True)),
    "enable_pl_optimizer": ("nothing: every optimizer is wrapped", _nothing),
    "prepare_data_per_node": ("the attribute prepare_data_per_node of module and datamodule", _nothing),
    "auto_scale_batch_size": ("leyden.tuner.Tuner(trainer).scale_batch_size(model)", _auto_scale_batch_size),
    "auto_lr_find": ("leyden.tuner.Tuner(trainer).lr_find(model)", _auto_lr_find),
    "auto_select_gpus": ("devices=...", _nothing),
    "ipus": ("accelerator", _refused("There is no support for IPUs; use accelerator='gpu' or 'cpu'.", None)),
    "stochastic_weight_avg": ("callbacks=[StochasticWeightAveraging(swa_lrs=...)]", _stochastic_weight_avg),
    "move_metrics_to_cpu": ("nothing: metrics are read in bulk", _nothing),
    "multiple_trainloader_mode": ("CombinedLoader(loaders, mode)", _loader_mode),
}  # fmt: skip


FORMER_DEFAULTS: dict[str, Any] = {
    # what 0.7.1's Trainer had where nothing was passed
    "checkpoint_callback": True, "early_stop_callback": False, "default_save_path": None, "gradient_clip": None,
    "process_position": 0, "nb_gpu_nodes": None, "gpus": None, "num_tpu_cores": None, "log_gpu_memory": None,
    "show_progress_bar": None, "progress_bar_refresh_rate": 1, "overfit_pct": 0.0, "track_grad_norm": -1, "max_nb_epochs": None,
    "min_nb_epochs": None, "train_percent_check": 1.0, "val_percent_check": 1.0, "test_percent_check": 1.0,
    "log_save_interval": 100, "row_log_interval": 10, "add_row_log_interval": None, "distributed_backend": None, "use_amp": None,
    "print_nan_grads": False, "weights_summary": "full", "weights_save_path": None, "amp_level": "O1",
    "nb_sanity_val_steps": None, "truncated_bptt_steps": None, "resume_from_checkpoint": None,
    "reload_dataloaders_every_epoch": False,
}  # fmt: skip


def translate(legacy: Mapping[str, Any], given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Classic:
    """Today's keywords from both; raises :class:`UnknownName` for a name of neither."""
    for name in legacy:
        if name not in TRAINER:
            raise UnknownName(f"Trainer got an unknown argument {name!r}.{did_you_mean(name, given, TRAINER)}")
    legacy, given = ({name: plain_number(value) for name, value in each.items()} for each in (legacy, given))
    changed = {name for name, value in given.items() if not same(value, defaults[name])}
    classic = Classic(given, changed, legacy)
    _translate_values(classic)
    for name, (today, read) in TRAINER.items():
        if name in legacy:
            read(name, legacy[name], classic)
            notice(f"Trainer({name}=...)", today)
    _strategy_among_plugins(classic)
    return classic


def _translate_values(classic: Classic) -> None:
    """Old values of arguments that are called today what they were called then."""
    keywords = classic.keywords
    if isinstance(keywords.get("profiler"), bool):
        notice(f"Trainer(profiler={keywords['profiler']})", "profiler='simple' or None")
        keywords["profiler"] = "simple" if keywords["profiler"] else None
    if keywords.get("strategy") == "fsdp_native":
        notice("Trainer(strategy='fsdp_native')", "strategy='fsdp'")
        keywords["strategy"] = "fsdp"
    accelerator = keywords.get("accelerator")
    if isinstance(accelerator, str) and (accelerator in ("dp", "ddp2") or accelerator.startswith("ddp")):
        keywords["accelerator"] = "auto"
        classic.given.discard("accelerator")
        _distributed_backend("accelerator", accelerator, classic)
        notice(f"Trainer(accelerator={accelerator!r})", f"strategy={keywords['strategy']!r}")


def _strategy_among_plugins(classic: Classic) -> None:
    """A strategy was a plug-in up to 1.5, and might be given beside its name: ``accelerator="ddp", plugins=DDPPlugin(...)``."""
    plugins, strategy = classic.keywords.get("plugins"), classic.keywords.get("strategy")
    given = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    found = [each for each in given if isinstance(each, Strategy) or (isinstance(each, str) and _NAMES_A_STRATEGY.search(each))]
    if len(found) == 1 and (strategy in (None, "auto") or (isinstance(strategy, str) and strategy.startswith("ddp"))):
        said = repr(found[0]) if isinstance(found[0], str) else f"{type(found[0]).__name__}(...)"
        notice(f"Trainer(plugins={said})", f"strategy={said}")
        classic.keywords["strategy"] = found[0]
        classic.keywords["plugins"] = [each for each in given if each is not found[0]] or None


def same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


@functools.lru_cache(maxsize=16)
def defaults_of(trainer_class: type) -> Mapping[str, Any]:
    """The Trainer's keywords of today, with their defaults."""
    parameters = inspect.signature(trainer_class.__init__).parameters.values()  # type: ignore[misc]  # of the class itself
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
