"""From options to parts: which callbacks and loggers a run gets when the user did not say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any, cast

from leyden.asked import replaces_default
from leyden.callback import Callback
from leyden.errors import ConflictingOptions, InvalidType
from leyden.hooks import PHASES, phase_of
from leyden.loggers.base import DummyLogger, Logger, is_logger
from leyden.loggers.named import right_logger
from leyden.options import Options

LOG_FOLDER = "lightning_logs"  # where users of Lightning look


def default_logger(root: str, **for_csv: Any) -> Logger:
    """The logger of who asked for none: TensorBoard's, where that is installed, else a CSV logger with ``for_csv``."""
    if find_spec("tensorboard") is not None:
        from leyden.loggers.tensorboard import TensorBoardLogger

        logger: Any = TensorBoardLogger(root, name=LOG_FOLDER)
    else:
        from leyden.loggers.csv import CSVLogger

        logger = CSVLogger(root, name=LOG_FOLDER, **for_csv)
    logger._chosen.given_as = "default_root_dir"
    return cast("Logger", logger)


def choose_loggers(given: Any, options: Options) -> list[Logger]:
    """The loggers that ``Trainer(logger=...)`` asks for; ``True`` and ``None`` mean the default one."""
    if given is False:
        return []
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes) and not is_logger(given)
    loggers = [] if given is None or given is True else list(given) if several else [given]
    for logger in loggers:
        if not is_logger(logger):
            raise InvalidType("logger", logger, "a Logger, a list of them, True or False", right_logger(logger))
    if options.limits.fast_dev_run:
        return [DummyLogger()]
    return [default_logger(options.default_root_dir)] if given is None or given is True else loggers


def choose_callbacks(given: Any, options: Options) -> list[Callback]:
    """The callbacks of a run: the user's, the defaults that are switched on, in their order. ``given`` is not changed."""
    callbacks = as_callbacks(given, "callbacks")
    watching = options.watching
    writers = [callback for callback in callbacks if replaces_default(callback)]
    if writers and not watching.checkpointing and not options.limits.fast_dev_run:
        raise ConflictingOptions(
            f"enable_checkpointing=False was set, and callbacks holds {type(writers[0]).__name__}. Leave one of them out."
        )
    bars = [callback for callback in callbacks if getattr(callback, "is_progress_bar", False)]
    if len(bars) > 1:
        raise ConflictingOptions(
            f"callbacks holds {len(bars)} progress bars ({', '.join(type(bar).__name__ for bar in bars)}). Leave one."
        )
    if bars and not watching.progress_bar:
        raise ConflictingOptions(
            f"enable_progress_bar=False was set, and callbacks holds {type(bars[0]).__name__}. Leave one of them out."
        )
    if not bars and watching.progress_bar:
        from leyden.callbacks.progress.rich_progress import RichProgressBar

        callbacks.append(RichProgressBar())
    from leyden.callbacks.model_summary import ModelSummary, RichModelSummary

    if watching.model_summary and not any(isinstance(callback, ModelSummary) for callback in callbacks):
        drawn_by_rich = any(type(bar).__module__.endswith("rich_progress") for bar in bars)
        callbacks.append(RichModelSummary() if drawn_by_rich else ModelSummary())
    if options.limits.max_time is not None:
        from leyden.callbacks.timer import Timer

        callbacks.append(Timer(options.limits.max_time))
    if watching.checkpointing and not writers:
        from leyden.callbacks.default_checkpoint import default_checkpoint

        callbacks.append(default_checkpoint())
    check_state_keys(callbacks)
    return in_order(callbacks)


def as_callbacks(given: Any, name: str) -> list[Callback]:
    """A new list of the callbacks in ``given``; raises :class:`InvalidType` for anything else."""
    if given is None:
        return []
    listed = list(given) if isinstance(given, Sequence | set) and not isinstance(given, str) else [given]
    for callback in listed:
        if not isinstance(callback, Callback):
            hint = " Make an instance of it: put () behind its name." if isinstance(callback, type) else ""
            raise InvalidType(name, callback, "a leyden.Callback or a list of them", hint.strip())
    return listed


def in_order(callbacks: list[Callback]) -> list[Callback]:
    """By phase, and in each as they were given."""
    return sorted(callbacks, key=lambda callback: PHASES.index(phase_of(callback)))


def check_state_keys(callbacks: list[Callback]) -> None:
    """Raise :class:`ConflictingOptions` where two callbacks with a state would share a place in the checkpoint."""
    seen: dict[str, Callback] = {}
    for callback in callbacks:
        key = callback.state_key
        if key in seen and type(callback).state_dict is not Callback.state_dict:
            raise ConflictingOptions(
                f"Two callbacks have the state key {key!r} ({type(seen[key]).__name__} and {type(callback).__name__}), and a "
                f"checkpoint can keep one state under it. Give them different arguments, or override state_key."
            )
        seen[key] = callback


def with_modules_callbacks(
    callbacks: list[Callback], modules: list[Callback], defaults: Iterable[Callback] = ()
) -> list[Callback]:
    """Callbacks of ``configure_callbacks`` put in.

    One of the same class in the trainer's list gives way, and so does one of ``defaults`` (which nobody asked for) that does
    the same work: writes checkpoints, draws the bar, prints the summary.
    """
    unasked = {id(callback) for callback in defaults}

    def gives_way(callback: Callback) -> bool:
        return any(type(callback) is type(own) or (id(callback) in unasked and _does_the_same(callback, own)) for own in modules)

    merged = [*(callback for callback in callbacks if not gives_way(callback)), *modules]
    bars = [callback for callback in merged if getattr(callback, "is_progress_bar", False)]
    if len(bars) > 1:
        raise ConflictingOptions(
            f"configure_callbacks and the trainer together bring {len(bars)} progress bars "
            f"({', '.join(type(bar).__name__ for bar in bars)}). Leave one."
        )
    check_state_keys(merged)
    return in_order(merged)


def _does_the_same(default: Callback, own: Callback) -> bool:
    return (
        isinstance(own, type(default))
        or (replaces_default(default) and replaces_default(own))
        or (getattr(default, "is_progress_bar", False) and getattr(own, "is_progress_bar", False))
    )
