"""What older Lightnings' base classes had as methods that do nothing, so that ``super().on_epoch_end()`` still finds one."""

from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from leyden.checked import read_word
from leyden.data.stretches import split_along_time
from leyden.errors import MissingMethod
from leyden.hparams_construct import named_parameters
from leyden.notices import notice
from leyden.types import MapLocation, Path


class Flag:
    """An attribute that a module shows of its trainer, and that the module's author may set to something of his own."""

    def __init__(self, read: Callable[[Any], Any] = lambda trainer: False, alone: Any = False) -> None:
        self.read, self.alone = read, alone

    def __get__(self, module: Any, owner: type) -> Any:
        if module is None:
            return self
        trainer = module.__dict__.get("_trainer")
        return self.alone if trainer is None else self.read(trainer)


class FormerHooks:
    """Old hooks of modules and callbacks alike."""

    def on_epoch_start(self, *_: Any) -> None:
        """``on_train_epoch_start`` today."""

    def on_epoch_end(self, *_: Any) -> None:
        """``on_train_epoch_end`` today."""

    def on_batch_start(self, *_: Any) -> None:
        """``on_train_batch_start`` today."""

    def on_batch_end(self, *_: Any) -> None:
        """``on_train_batch_end`` today."""

    def on_pretrain_routine_start(self, *_: Any) -> None:
        """``on_fit_start`` today."""

    def on_pretrain_routine_end(self, *_: Any) -> None:
        """``on_fit_start`` today."""


class FormerModuleHooks(FormerHooks):
    """Old hooks and flags of modules."""

    use_dp = Flag()
    use_ddp = Flag(lambda trainer: trainer.world_size > 1)
    use_ddp2 = Flag()
    use_amp = Flag(lambda trainer: trainer.precision.startswith(("16", "bf16")))
    use_tpu = Flag()
    fabric: Any = None
    device_mesh = Flag(lambda trainer: getattr(trainer.strategy, "device_mesh", None), None)
    single_gpu = Flag(lambda trainer: trainer.strategy.root_device.type == "cuda" and trainer.world_size == 1)

    def on_pre_performance_check(self, *_: Any) -> None:
        """``on_validation_start`` and ``on_test_start`` today."""

    def on_post_performance_check(self, *_: Any) -> None:
        """``on_validation_end`` and ``on_test_end`` today."""

    def on_sanity_check_start(self, *_: Any) -> None:
        """A callback's ``on_sanity_check_start`` today."""

    def configure_sharded_model(self) -> None:
        """``configure_model`` today."""

    def get_progress_bar_dict(self: Any) -> dict[str, Any]:
        """What the bar shows by itself: the loss and the logger's version. Override it to change that."""
        loss = self.trainer.leyden_fit.losses.latest
        shown: dict[str, Any] = {"loss": float("nan") if loss is None else float(loss)}
        if self.logger is not None and self.logger.version is not None:
            shown["v_num"] = self.logger.version
        return shown

    def get_tqdm_dict(self: Any) -> dict[str, Any]:
        """The first name of :meth:`get_progress_bar_dict`."""
        shown: dict[str, Any] = self.get_progress_bar_dict()
        return shown

    @classmethod
    def load_from_metrics(cls: Any, weights_path: Path, tags_csv: Path, map_location: MapLocation = None) -> Any:
        """0.6's ``load_from_checkpoint``: hyper-parameters come from a ``meta_tags.csv``."""
        return cls.load_from_checkpoint(weights_path, map_location, tags_csv=tags_csv)

    def tbptt_split_batch(self, batch: Any, split_size: int) -> list[Any]:
        """The stretches of a batch, for ``truncated_bptt_steps``. Override where time is not the second dimension."""
        return split_along_time(batch, split_size)


class FormerCallbackHooks(FormerHooks):
    """Old hooks of callbacks."""

    def on_init_start(self, *_: Any) -> None:
        """A callback's ``setup`` today."""

    def on_init_end(self, *_: Any) -> None:
        """A callback's ``setup`` today."""

    def on_before_accelerator_backend_setup(self, *_: Any) -> None:
        """A callback's ``setup`` today."""


class FormerDataModule:
    """What datamodules had beside their loaders, up to 1.6. The attributes are the author's: nothing here reads them."""

    train_transforms: Any = None
    val_transforms: Any = None
    test_transforms: Any = None
    dims: Any = None

    def __init__(
        self, train_transforms: Any = None, val_transforms: Any = None, test_transforms: Any = None, dims: Any = None
    ) -> None:
        super().__init__()
        given = {"train_transforms": train_transforms, "val_transforms": val_transforms}
        given |= {"test_transforms": test_transforms, "dims": dims}
        for name, value in given.items():
            if value is not None:  # a subclass may have a property or a method of that name
                setattr(self, name, value)
                notice(f"LightningDataModule({name}=...)", f"self.{name} = ..., in your own __init__")

    def size(self, dim: int | None = None) -> Any:
        """The shape of a sample, which the author put into ``dims``, or one number of it."""
        return self.dims if dim is None else self.dims[dim]

    @classmethod
    def add_argparse_args(cls, parent_parser: Any, **_: Any) -> Any:
        """Add an option for each argument of this class's constructor to an ``argparse`` parser, which is returned."""
        taken = set(parent_parser._option_string_actions)
        for name, parameter in named_parameters(cls).items():
            if f"--{name}" not in taken:
                default = None if parameter.default is parameter.empty else parameter.default
                parent_parser.add_argument(f"--{name}", default=default, type=read_word)
        return parent_parser

    @classmethod
    def from_argparse_args(cls, args: Any, **kwargs: Any) -> Self:
        """A datamodule with what stands in ``args``, a namespace, under the names of its constructor; ``kwargs`` override it."""
        named = named_parameters(cls)
        given = {name: value for name, value in vars(args).items() if name in named}
        return cls(**{**given, **kwargs})


def loaders_beside(module: Any, hook: str) -> Any:
    """What a module that has no ``train_dataloader`` (or another ``hook``) of its own answers: what fit was given, as up to 1.4.

    There the datamodule's method, or the loader that was passed, took the place of the module's while a verb ran.

    Raises :class:`MissingMethod` where there is none.
    """
    trainer = module.__dict__.get("_trainer")
    origins = {} if trainer is None else trainer.leyden_loaders.origins
    origin = origins.get(hook.removesuffix("_dataloader"))
    if origin is None or not origin.exists or origin.owner is module:
        verb = " to fit" if hook == "train_dataloader" else ""
        raise MissingMethod(f"{type(module).__name__} has no `{hook}`, and none was passed{verb}.")
    notice(
        f"self.{hook}() of what fit was given", f"self.trainer.datamodule.{hook}(), or self.trainer.estimated_stepping_batches"
    )
    return origin.load()
