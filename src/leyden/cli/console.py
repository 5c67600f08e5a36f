"""The command ``leyden``: a demonstration, what stands in a checkpoint, and what a bug report needs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from leyden.errors import LeydenError
from leyden.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the subcommands. Returns the exit code: 0, or 1 after a sentence that says what is wrong."""
    parser = argparse.ArgumentParser(prog="leyden", description="Tools of leyden. For training, see leyden.cli.LightningCLI.")
    parser.add_argument("--version", action="version", version=f"leyden {__version__}")
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="subcommand")
    for name, (description, add, _) in SUBCOMMANDS.items():
        add(subcommands.add_parser(name, help=description, description=description))
    asked = parser.parse_args(arguments)
    try:
        return SUBCOMMANDS[asked.subcommand][2](asked)
    except LeydenError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, less or head, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", default="leyden_demo", help="where logs and checkpoints go (default: leyden_demo)")
    parser.add_argument("--max_epochs", type=int, default=30, help="epochs to train (default: 30)")


def _demo(asked: argparse.Namespace) -> int:
    from leyden.cli.demo import run

    return run(asked.folder, asked.max_epochs)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="+", help="the path or URL of a checkpoint: a file, or the folder of a sharded one")
    parser.add_argument("--weights", action="store_true", help="list every tensor of the module")


def _inspect(asked: argparse.Namespace) -> int:
    from leyden.cli.contents import show

    failed = 0
    for path in asked.file:
        try:
            show(path, asked.weights)
        except LeydenError as error:
            print(error, file=sys.stderr)
            failed = 1
    return failed


def _add_consolidate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="the folder of a sharded checkpoint")
    parser.add_argument("--output", help="where to write (default: beside the folder, with .consolidated added to its name)")


def _consolidate(asked: argparse.Namespace) -> int:
    from leyden.checkpoint.sharded import consolidate

    print(consolidate(asked.folder, asked.output))
    return 0


def _env(asked: argparse.Namespace) -> int:
    from leyden.cli.environment import show

    show()
    return 0


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    """A subcommand without arguments."""


SUBCOMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "demo": ("Train a small network on two spirals, and say where everything is.", _add_demo, _demo),
    "inspect": ("Check a checkpoint and say what stands in it. No code that the file holds is run.", _add_inspect, _inspect),
    "consolidate": ("Make one file of a sharded checkpoint, which torch.load opens.", _add_consolidate, _consolidate),
    "env": ("Say what this machine and its packages are, for bug reports.", _add_nothing, _env),
}
"""By name: what it does, its arguments, and what runs it."""
