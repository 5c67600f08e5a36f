"""OnExceptionCheckpoint: the state of training as it was when something raised."""

import os
from typing import ClassVar, Final

from leyden.callbacks.checkpoint import Checkpoint, store_of
from leyden.checkpoint.files import absolute
from leyden.errors import CheckpointError, CheckpointWriteFailed, InvalidOption, InvalidType
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.types import Path


@exact_arguments
class OnExceptionCheckpoint(Checkpoint):
    """Write ``dirpath/filename.ckpt`` when a verb is ended by an exception. The file stays; the next one replaces it.

    It holds the state of training, from which a fit goes on; that of the fit before, where another verb is ended.

    Args:
        dirpath: The folder. Made when it is needed.
        filename: The file's name, without its extension.

    Raises:
        InvalidOption: an empty ``filename``.
        InvalidType: a ``dirpath`` that is no path, a ``filename`` that is no text.
        CheckpointWriteFailed: nothing can be written into ``dirpath``; before the first step.
    """

    leyden_replaces_default: ClassVar[bool] = False  # a run that ends well leaves no file of it
    FILE_EXTENSION: Final = ".ckpt"

    def __init__(self, dirpath: Path, filename: str = "on_exception") -> None:
        if not isinstance(dirpath, str | os.PathLike):
            raise InvalidType("dirpath", dirpath, "a path")
        if not isinstance(filename, str):
            raise InvalidType("filename", filename, "a file's name")
        if not filename:
            raise InvalidOption("filename", filename, "a file's name that is not empty")
        self.dirpath = absolute(os.fspath(dirpath))  # wherever the process goes
        self.filename = filename

    @property
    def ckpt_path(self) -> str:
        """The file's path."""
        return os.path.join(self.dirpath, self.filename + self.FILE_EXTENSION)

    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if not trainer.fast_dev_run:
            store_of(trainer).clean(self.dirpath)

    def on_exception(self, trainer: Run, pl_module: LightningModule, exception: BaseException) -> None:
        if not trainer.fast_dev_run and not isinstance(exception, CheckpointWriteFailed | CheckpointError):
            trainer.save_checkpoint(self.ckpt_path)
