"""What a run was configured with, beside its logs: whoever has the folder can start the same run again."""

import os
from typing import Any

from leyden.callback import Callback
from leyden.checkpoint.filesystem import get_filesystem
from leyden.cli.installed import Namespace
from leyden.cli.parser import LightningArgumentParser
from leyden.errors import InvalidOption, MisconfigurationException
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.trainer.trainer import Trainer


class ConfigExists(MisconfigurationException, RuntimeError):
    """The file that would be written stands there already, and says something else."""


@exact_arguments
class SaveConfigCallback(Callback):
    """Writes the configuration of a :class:`LightningCLI` into ``trainer.log_dir`` when a run begins.

    Args:
        parser: what read the configuration.
        config: what it read.
        config_filename: the file's name.
        overwrite: write over the file of another run. (A run that goes on from a checkpoint writes ``config-1.yaml`` beside it,
            where its configuration differs.)
        multifile: where the configuration came from several files, write as many.
        save_to_log_dir: whether to write the file at all; :meth:`save_config` is called in any case.

    Raises:
        InvalidOption: ``save_to_log_dir=False``, and :meth:`save_config` is not overridden: nothing would be saved.
        ConfigExists: a ``RuntimeError``: the file exists and ``overwrite`` is false.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        config_filename: str = "config.yaml",
        overwrite: bool = False,
        multifile: bool = False,
        save_to_log_dir: bool = True,
    ) -> None:
        if not save_to_log_dir and type(self).save_config is SaveConfigCallback.save_config:
            advice = f"{type(self).__name__} would save nothing: override save_config, or say save_config_callback=None."
            raise InvalidOption("save_to_log_dir", save_to_log_dir, "True, unless save_config is overridden", advice)
        self.parser = parser
        self.config = config
        self.config_filename = config_filename
        self.overwrite = overwrite
        self.multifile = multifile
        self.save_to_log_dir = save_to_log_dir
        self.already_saved = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.already_saved:
            return
        if self.save_to_log_dir:
            self.leyden_write(trainer)
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, stage)
        self.already_saved = True

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Override to keep the configuration somewhere else too, such as in a logger. Called on the first process only."""

    def leyden_write(self, trainer: Trainer) -> None:
        folder = str(trainer.log_dir)
        files = get_filesystem(folder)
        path = os.path.join(folder, self.config_filename)
        exists = trainer.strategy.broadcast(trainer.is_global_zero and not self.overwrite and files.isfile(path))
        goes_on = trainer.ckpt_path is not None or self.config.get("ckpt_path") is not None
        if exists and not goes_on:
            raise ConfigExists(
                f"{type(self).__name__} found {path!r} there already, of another run: nothing was overwritten. Log into another "
                "folder, remove the file, or say LightningCLI(save_config_kwargs={'overwrite': True}), or "
                "LightningCLI(save_config_callback=None) to write none."
            )
        if not trainer.is_global_zero:
            return
        files.makedirs(folder, exist_ok=True)
        if exists:
            path = self.leyden_name_beside(files, path)
        if path:
            self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=self.multifile)

    def leyden_name_beside(self, files: Any, path: str) -> str:
        """For a run that goes on in its folder: a free name, or none where the configuration stands there already."""
        text = _without_comments(self.parser.dump(self.config, skip_none=False))
        stem, ending = os.path.splitext(path)
        number = 0
        while files.isfile(path):
            with files.open(path, "r", encoding="utf-8") as file:
                if _without_comments(file.read()) == text:
                    return ""
            number += 1
            path = f"{stem}-{number}{ending}"
        return path


def _without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]
