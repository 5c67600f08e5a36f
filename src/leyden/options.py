"""What the user asked for: every Trainer keyword lands in exactly one frozen record, and is checked there once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from leyden.checked import (
    check_accumulation,
    check_bool,
    check_count,
    check_deterministic,
    check_limit,
    check_number,
    read_duration,
)
from leyden.checkpoint.files import absolute
from leyden.devices.cuda import prepare_deterministic
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType

DEFAULT_EPOCHS = 1000  # where nothing limits training


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When training stops, and how much of each loader is used."""

    max_epochs: int | None = None  # None: no limit
    min_epochs: int = 0
    max_steps: int | None = None  # None: no limit
    min_steps: int = 0
    epochs_by_default: bool = False  # nobody set a limit: 1000 epochs are meant
    max_time: timedelta | None = None
    train: int | float = 1.0
    val: int | float = 1.0
    test: int | float = 1.0
    predict: int | float = 1.0
    overfit: int | float = 0.0
    fast_dev_run: int = 0  # batches; 0: off

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Limits:
        fast_dev_run, epochs_asked = given["fast_dev_run"], given["max_epochs"]
        if isinstance(fast_dev_run, bool):
            dev = int(fast_dev_run)
        else:
            dev = check_count("fast_dev_run", fast_dev_run, 0, "True, False, or a number of batches >= 0")
        most: dict[str, int | None] = {}
        for unit in ("epochs", "steps"):
            asked = given[f"max_{unit}"]
            if asked is not None:
                asked = check_count(f"max_{unit}", asked, -1, f"a number of {unit} >= 0, -1 for no limit, or None")
            most[unit] = None if asked == -1 else asked
        max_epochs, max_steps = most["epochs"], most["steps"]
        duration = read_duration("max_time", given["max_time"])
        if duration is not None and duration < timedelta(0):
            raise InvalidOption("max_time", given["max_time"], "a duration that is not negative")
        least = [0 if given[name] is None else given[name] for name in ("min_epochs", "min_steps")]
        low_epochs = check_count("min_epochs", least[0], 0, "a number of epochs >= 0, or None")
        low_steps = check_count("min_steps", least[1], 0, "a number of steps >= 0, or None")
        shares = {
            stage: check_limit(f"limit_{stage}_batches", given[f"limit_{stage}_batches"])
            for stage in ("train", "val", "test", "predict")
        }
        overfit = check_limit("overfit_batches", given["overfit_batches"])
        if overfit:
            shares["train"] = shares["val"] = overfit
        if dev:
            shares = dict.fromkeys(shares, dev)
            overfit, duration, low_epochs, low_steps = 0.0, None, 0, 0
            max_epochs, max_steps = 1, dev
        elif epochs_asked is None and max_steps is None and duration is None:
            max_epochs = DEFAULT_EPOCHS
        if max_epochs is not None and low_epochs > max_epochs:
            raise ConflictingOptions(
                f"min_epochs={low_epochs} is more than max_epochs={max_epochs}. Lower one or raise the other."
            )
        if max_steps is not None and low_steps > max_steps:
            raise ConflictingOptions(f"min_steps={low_steps} is more than max_steps={max_steps}. Lower one or raise the other.")
        return cls(
            max_epochs=max_epochs,
            min_epochs=low_epochs,
            max_steps=max_steps,
            min_steps=low_steps,
            epochs_by_default=not dev and epochs_asked is None and max_epochs is not None,
            max_time=duration,
            overfit=overfit,
            fast_dev_run=dev,
            **shares,
        )


@dataclass(frozen=True, kw_only=True)
class Validation:
    """When validation runs."""

    interval: int | float | timedelta = 1.0  # batches, a share of an epoch, or a time
    every_n_epochs: int | None = 1  # None: the interval counts across epochs
    sanity_batches: int | None = 2  # None: all

    @classmethod
    def read(cls, given: Mapping[str, Any], dev: int) -> Validation:
        val_check_interval, every, sanity = (
            given[name] for name in ("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps")
        )
        expected = (
            "a share of an epoch (a float from 0.0 to 1.0), a number of training batches (an int >= 1), "
            'or a time ("DD:HH:MM:SS", a timedelta, or a dict)'
        )
        interval: int | float | timedelta
        if val_check_interval is None:
            interval = 1.0
        elif isinstance(val_check_interval, bool):
            raise InvalidType("val_check_interval", val_check_interval, expected)
        elif isinstance(val_check_interval, int):
            interval = check_count("val_check_interval", val_check_interval, 1, expected)
        elif isinstance(val_check_interval, float):
            if not 0.0 < val_check_interval <= 1.0:
                raise InvalidOption("val_check_interval", val_check_interval, expected)
            interval = val_check_interval
        else:
            duration = read_duration("val_check_interval", val_check_interval)
            assert duration is not None
            if duration <= timedelta(0):
                raise InvalidOption("val_check_interval", val_check_interval, "a time longer than zero")
            interval = duration
        if every is not None:
            every = check_count("check_val_every_n_epoch", every, 1, "a number of epochs >= 1, or None")
        elif val_check_interval is None:
            every = 1
        elif isinstance(interval, float):
            raise ConflictingOptions(
                f"check_val_every_n_epoch=None counts batches across epochs, so val_check_interval must be a number of "
                f"batches (an int) or a time, not {val_check_interval!r}."
            )
        sanity = check_count(
            "num_sanity_val_steps", 2 if sanity is None else sanity, -1, "a number of batches >= 0, or -1 for all"
        )
        if dev:
            return cls(sanity_batches=0)
        return cls(interval=interval, every_n_epochs=every, sanity_batches=None if sanity == -1 else sanity)


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How gradients become steps."""

    accumulate: int = 1
    schedule: Mapping[int, int] | None = None  # epoch: batches per window, from that epoch on
    clip_value: float | None = None  # None: gradients are not clipped
    clip_algorithm: str | None = None  # None: "norm"
    check_finite: bool = True

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Optimization:
        asked, clip, algorithm = (
            given[name] for name in ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
        )
        expected = "a number of batches >= 1, or a dict of them by the epoch (from 0) from which they hold"
        schedule = None
        if isinstance(asked, Mapping):
            schedule = check_accumulation("accumulate_grad_batches", asked)
            accumulate = schedule.get(0, 1)
        else:
            accumulate = check_count("accumulate_grad_batches", asked, 1, expected)
        if clip is not None:
            clip = check_number("gradient_clip_val", clip, "a positive number, or 0 or None for no clipping", 0)
        if not isinstance(algorithm, str | None):
            raise InvalidType("gradient_clip_algorithm", algorithm, '"norm" or "value"')
        if algorithm is not None and str(algorithm).lower() not in ("norm", "value"):
            raise InvalidOption("gradient_clip_algorithm", algorithm, '"norm" or "value"')
        return cls(
            accumulate=accumulate,
            schedule=schedule,
            clip_value=float(clip) if clip else None,
            clip_algorithm=None if algorithm is None else str(getattr(algorithm, "value", algorithm)).lower(),
            check_finite=check_bool("stop_on_nonfinite_loss", given["stop_on_nonfinite_loss"]),
        )


@dataclass(frozen=True, kw_only=True)
class Watching:
    """What is shown, logged and kept. None of it changes training."""

    log_every_n_steps: int = 50
    progress_bar: bool = True
    model_summary: bool = True
    checkpointing: bool = True
    autolog_hparams: bool = True

    @classmethod
    def read(cls, given: Mapping[str, Any], dev: int) -> Watching:
        every = 50 if given["log_every_n_steps"] is None else given["log_every_n_steps"]
        every = check_count("log_every_n_steps", every, 0, "a number of steps >= 1, or 0 to log no step")
        names = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        bar, summary, checkpointing = (given[name] is None or check_bool(name, given[name]) for name in names)
        return cls(
            log_every_n_steps=1 if dev else every,
            progress_bar=bar,
            model_summary=summary,
            checkpointing=checkpointing,
            autolog_hparams=check_bool("enable_autolog_hparams", given["enable_autolog_hparams"]),
        )


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Switches of PyTorch's, and of the loops, that hold while a verb runs."""

    inference_mode: bool = True
    detect_anomaly: bool = False
    deterministic: bool | str | None = None  # True, False, "warn"; None: left as it is
    benchmark: bool | None = None  # cudnn's; None: left as it is
    barebones: bool = False
    reload_every_n_epochs: int = 0  # 0: never
    distributed_sampler: bool = True
    sync_batchnorm: bool = False

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Behaviour:
        def switch(name: str) -> bool:
            return check_bool(name, given[name])

        deterministic, every = given["deterministic"], "reload_dataloaders_every_n_epochs"
        if deterministic is not None and deterministic != "warn":
            deterministic = check_deterministic(deterministic)
        if deterministic:
            prepare_deterministic()
        return cls(
            inference_mode=switch("inference_mode"),
            detect_anomaly=switch("detect_anomaly"),
            deterministic=deterministic,
            benchmark=None if given["benchmark"] is None else switch("benchmark"),
            barebones=switch("barebones"),
            reload_every_n_epochs=check_count(every, given[every], 0, "a number of epochs >= 0"),
            distributed_sampler=switch("use_distributed_sampler"),
            sync_batchnorm=switch("sync_batchnorm"),
        )


BAREBONES_OFF = {
    "enable_checkpointing": (True,),
    "logger": (True,),
    "enable_progress_bar": (True,),
    "enable_model_summary": (True,),
    "num_sanity_val_steps": (),
    "fast_dev_run": (),
    "detect_anomaly": (True,),
    "profiler": (),
    "log_every_n_steps": (),
}


def refuse_with_barebones(given: Mapping[str, Any]) -> None:
    """Raise :class:`ConflictingOptions` where ``barebones=True`` meets a feature that it turns off."""
    for name in BAREBONES_OFF:
        value = given.get(name)
        if value in (None, False, 0) and not (name == "logger" and value is not None and value is not False):
            continue
        raise ConflictingOptions(f"barebones=True turns {name} off, and {name}={value!r} asks for it. Leave one of them out.")


@dataclass(frozen=True, kw_only=True)
class Options:
    """All that was asked of a Trainer, checked."""

    limits: Limits
    validation: Validation
    optimization: Optimization
    watching: Watching
    behaviour: Behaviour
    default_root_dir: str
    crash_capsule: bool | str = True

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Options:
        """Every keyword of the Trainer, checked, in its record."""
        limits = Limits.read(given)
        dev = limits.fast_dev_run
        check_bool("suggest_integrations", given["suggest_integrations"])  # there are none
        return cls(
            limits=limits,
            validation=Validation.read(given, dev),
            optimization=Optimization.read(given),
            watching=Watching.read(given, dev),
            behaviour=Behaviour.read(given),
            default_root_dir=cls.read_root(given["default_root_dir"]),
            crash_capsule=cls.read_capsule(given["crash_capsule"]) and not given["barebones"] and given["crash_capsule"],
        )

    @staticmethod
    def read_capsule(given: Any) -> bool | str:
        if given == "weights":
            return "weights"
        if isinstance(given, str):
            raise InvalidOption("crash_capsule", given, 'True, False, or "weights"')
        return check_bool("crash_capsule", given)

    @staticmethod
    def read_root(given: Any) -> str:
        if given is not None and not isinstance(given, str | os.PathLike):
            raise InvalidType("default_root_dir", given, "a path or an URL")
        return os.getcwd() if given is None else absolute(os.fspath(given))
