"""Sharded checkpoints as the user asks for them: the plug-in, and the command that makes one file of a folder."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO, local_path
from leyden.checkpoint.shards import read_folder, write_folder
from leyden.errors import CheckpointForeign, InvalidOption, LeydenError
from leyden.spelling import exact_arguments
from leyden.types import Path


@exact_arguments
class ShardedCheckpointIO(CheckpointIO):
    """A checkpoint is a folder, into which every process writes its part: ``Trainer(plugins=ShardedCheckpointIO())``.

    The folder is verified by sizes and checksums when it is read, and is under its name only when all of it is on the disk.
    It resumes on any number of processes. ``AsyncCheckpointIO(ShardedCheckpointIO())`` writes in the background. All
    processes have to see the same folder; URLs are not supported. A subclass with a ``save_checkpoint`` of its own gets the
    whole state, on the first process, as every other :class:`CheckpointIO`.
    """

    @property
    def leyden_needs_folder(self) -> bool:
        return type(self).save_checkpoint is ShardedCheckpointIO.save_checkpoint

    @property
    def leyden_sharded(self) -> bool:  # type: ignore[override]  # a subclass that writes itself does so on the first process
        return self.leyden_needs_folder

    def __init__(self) -> None:
        self._files = TorchCheckpointIO()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` as a folder, by this process alone. (A strategy lets all of its processes write.)"""
        write_folder(checkpoint, local_path(os.fspath(path)))

    def load_checkpoint(self, path: Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a folder or a file, verified; tensors are whole."""
        return self._files.load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: Path) -> None:
        """Remove a folder or a file."""
        self._files.remove_checkpoint(path)


def consolidate(folder: Path, output: Path | None = None) -> str:
    """Write one file with all that the sharded checkpoint ``folder`` holds, as a run without shards would have; returns its path.

    It stands beside the folder, with ``.consolidated`` added to its name, unless ``output`` says otherwise.

    Raises:
        CheckpointMissing, CheckpointDamaged, CheckpointForeign: of the folder.
        InvalidOption: there is something at ``output``.
        CheckpointWriteFailed: as the name says.
    """
    source = os.path.abspath(local_path(os.fspath(folder)))
    target = f"{source}.consolidated" if output is None else os.path.abspath(local_path(os.fspath(output)))
    if os.path.isfile(source):
        raise CheckpointForeign(f"{os.fspath(folder)!r} is a file. Expected the folder of a sharded checkpoint.")
    if os.path.lexists(target):
        raise InvalidOption("output", target, "a path at which there is nothing yet")
    TorchCheckpointIO().save_checkpoint(read_folder(source), target)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m leyden.utilities.consolidate_checkpoint FOLDER``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m leyden.utilities.consolidate_checkpoint",
        description="Make one file of a sharded checkpoint, which torch.load opens.",
    )
    parser.add_argument("checkpoint_folder", help="the folder that a sharded save wrote")
    parser.add_argument(
        "--output_file", help="where to write; by default beside the folder, with .consolidated added to its name"
    )
    asked = parser.parse_args(arguments)
    try:
        print(consolidate(asked.checkpoint_folder, asked.output_file))
    except LeydenError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
