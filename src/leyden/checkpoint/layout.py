"""The outermost layout of a checkpoint: Lightning's keys, and below ``leyden`` what is ours, with a number for its form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leyden.checkpoint.format import decode_file, unwritable
from leyden.checkpoint.forms import check_forms
from leyden.checkpoint.pickles import Objects
from leyden.errors import CheckpointForeign, LeydenWarning, warn_user
from leyden.version import __version__

OURS = "leyden"
FORMAT = 1
"""The number of the layout below ``leyden``. A file of a higher number is refused; 0.1.0 wrote none."""
_named_once: set[str] = set()
_PARTS: dict[str, tuple[type, ...]] = {
    "state_dict": (Mapping,),
    "optimizer_states": (list, tuple, type(None)),
    "lr_schedulers": (list, tuple, type(None)),
    "callbacks": (Mapping, type(None)),
    "leyden": (Mapping, type(None)),
}


def check_parts(checkpoint: Mapping[str, Any], name: str) -> None:
    """Raise :class:`CheckpointForeign` where a part of the top level is of a kind that no writer gives it."""
    for part, kinds in _PARTS.items():
        if part in checkpoint and not isinstance(checkpoint[part], kinds):
            raise CheckpointForeign(
                f"{name!r} is no checkpoint of a Trainer: its {part!r} is {type(checkpoint[part]).__name__}, expected "
                f"{'names and values' if Mapping in kinds else 'a list'}."
            )


def verified(checkpoint: Any, path: str, weights_only: bool | None = None) -> dict[str, Any]:
    """What a file at ``path`` held, decoded, and of the form that a checkpoint has. Raises where it is none.

    With ``weights_only=False`` the objects in it that are pickled are made, which runs code of the file.
    """
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointForeign(
            f"{path} holds no checkpoint: it has no 'state_dict'. Expected a file that a Trainer wrote, or Lightning."
        )
    decoded: dict[str, Any] = decode_file(checkpoint, repr(path), Objects(checkpoint, weights_only))
    ours = decoded.get(OURS)
    written = ours.get("format", 0) if isinstance(ours, Mapping) else 0
    if isinstance(ours, Mapping) and isinstance(written, int) and written > FORMAT:
        raise CheckpointForeign(
            f"{path} was written by leyden {ours.get('version', 'of a later version')} in format {written}, and this version "
            f"({__version__}) reads formats up to {FORMAT}. Update leyden; Trainer(...).fit(ckpt_path=None) starts afresh."
        )
    check_parts(decoded, path)
    if OURS in decoded:  # what others write is read where it fits
        check_forms(decoded, path)
    return decoded


def name_unwritable(plain: dict[str, Any]) -> None:
    """Warn of what could not be written, once for each name."""
    unasked = (f"{OURS}.init_arguments", f"{OURS}.datamodule_init_arguments")  # nobody said to keep these; loading asks for them
    found = [(name, kind) for name, kind in unwritable(plain) if name not in _named_once and not name.startswith(unasked)]
    if not found:
        return
    _named_once.update(name for name, _ in found)
    listed = ", ".join(f"{name} ({kind})" for name, kind in found)
    warn_user(
        f"Some values cannot be written into a checkpoint that loads without running code, and only their names and types are: "
        f"{listed}. What can be pickled is in it besides, for a reader that says weights_only=False. Hyper-parameters are passed "
        f"again when loading, or kept out with save_hyperparameters(ignore=[...]); of what a callback, an optimizer or a "
        f"scheduler holds, a resumed run keeps what it builds itself.",
        LeydenWarning,
    )
