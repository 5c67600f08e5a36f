"""The command line: not offered yet."""

from __future__ import annotations

from typing import Any

from leyden.errors import absent

__all__: list[str] = []

_LATER = {
    **dict.fromkeys(
        ("LightningCLI", "LightningArgumentParser", "SaveConfigCallback", "ArgsType", "instantiate_class"),
        "Not yet, that is: make the module and the Trainer in a script, where Trainer.from_argparse_args reads a command line.",
    ),
}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
