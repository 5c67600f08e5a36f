"""LightningDataModule: data and its loaders, in one class that can be shared and reused."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset
from typing_extensions import Self

from leyden.data.around import checked_sizes, loader_around
from leyden.data.described import described
from leyden.devices.transfer import move_data_to_device
from leyden.errors import MissingMethod
from leyden.former import FormerDataModule
from leyden.hparams import HyperparametersMixin, load_datamodule_from_checkpoint, makes_anew
from leyden.spelling import arguments_of, exact_arguments, refuse_unknown
from leyden.types import MapLocation, Path

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


@exact_arguments
class LightningDataModule(FormerDataModule, HyperparametersMixin):
    """Where the data comes from. Override :meth:`setup` and the loaders you need."""

    name: str | None = None
    CHECKPOINT_HYPER_PARAMS_KEY = "datamodule_hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "datamodule_hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE = "datamodule_hparams_type"

    def __init__(
        self, train_transforms: Any = None, val_transforms: Any = None, test_transforms: Any = None, dims: Any = None
    ) -> None:
        super().__init__(train_transforms, val_transforms, test_transforms, dims)
        self.trainer: Trainer | None = None
        self.prepare_data_per_node: bool = True
        self.allow_zero_length_dataloader_with_multiple_devices: bool = False

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["trainer"] = None
        return state

    def prepare_data(self) -> None:
        """Download or make data. Runs first, once."""

    def setup(self, stage: str) -> None:
        """Make datasets. ``stage`` is ``fit``, ``validate``, ``test`` or ``predict``."""

    def teardown(self, stage: str) -> None:
        """Clean up after a verb, however it ended."""

    def train_dataloader(self) -> Any:
        """The training loader."""
        raise MissingMethod(f"{type(self).__name__} has no `train_dataloader`.")

    def val_dataloader(self) -> Any:
        """The validation loader, or several."""
        raise MissingMethod(f"{type(self).__name__} has no `val_dataloader`.")

    def test_dataloader(self) -> Any:
        """The test loader, or several."""
        raise MissingMethod(f"{type(self).__name__} has no `test_dataloader`.")

    def predict_dataloader(self) -> Any:
        """The loader of what to predict, or several."""
        raise MissingMethod(f"{type(self).__name__} has no `predict_dataloader`.")

    __str__ = described

    def on_exception(self, exception: BaseException) -> None:
        """Something raised; let go of resources."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep of the data."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint before it is written."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take out of a checkpoint what was added."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Change a batch before it moves to the device."""
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int = 0) -> Any:
        """Move a batch to the device."""
        return move_data_to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Change a batch once it is on the device."""
        return batch

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Dataset[Any] | Sequence[Dataset[Any]] | Mapping[str, Dataset[Any]] | None = None,
        val_dataset: Dataset[Any] | Sequence[Dataset[Any]] | None = None,
        test_dataset: Dataset[Any] | Sequence[Dataset[Any]] | None = None,
        predict_dataset: Dataset[Any] | Sequence[Dataset[Any]] | None = None,
        batch_size: int | None = 1,
        num_workers: int = 0,
        **datamodule_kwargs: Any,
    ) -> Self:
        """A datamodule around datasets: the training set is shuffled, the others are not. Several per stage may be given.

        ``batch_size`` and ``num_workers`` go to the constructor too, where it takes them.
        """
        parameters = inspect.signature(cls).parameters
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        refuse_unknown(f"{cls.__name__}.from_datasets", datamodule_kwargs, cls, also=arguments_of(cls.from_datasets))
        batch_size, num_workers = checked_sizes(batch_size, num_workers)
        told = {"batch_size": batch_size, "num_workers": num_workers}
        made = cls(**{name: value for name, value in told.items() if takes_any or name in parameters}, **datamodule_kwargs)
        given = {
            "train_dataloader": train_dataset,
            "val_dataloader": val_dataset,
            "test_dataloader": test_dataset,
            "predict_dataloader": predict_dataset,
        }
        for name, dataset in given.items():
            if dataset is not None:
                made.__dict__[name] = partial(loader_around, dataset, batch_size, num_workers, shuffle=name == "train_dataloader")
        return made

    @makes_anew
    def load_from_checkpoint(
        cls,
        checkpoint_path: Path | Any,
        map_location: MapLocation = None,
        hparams_file: Path | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """A new datamodule with the constructor's arguments and the state that stand in a checkpoint."""
        return load_datamodule_from_checkpoint(cls, checkpoint_path, map_location, hparams_file, weights_only, **kwargs)
