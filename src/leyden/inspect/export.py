"""A module in the forms in which it runs without Python: TorchScript and ONNX."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leyden.checkpoint.random_state import preserved_random_state
from leyden.devices.transfer import move_data_to_device
from leyden.errors import InvalidOption, MissingMethod
from leyden.types import Path


@contextlib.contextmanager
def as_for_use(module: nn.Module) -> Iterator[None]:
    """In eval mode, without gradients and without a trace in the random state; the modes are put back."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), preserved_random_state():
            yield
    finally:
        for child, mode in modes:
            child.training = mode


class Exports:
    """A module's methods that write it in another form."""

    def to_torchscript(
        self,
        file_path: Path | None = None,
        method: Literal["script", "trace"] = "script",
        example_inputs: Any = None,
        **options: Any,
    ) -> Any:
        """The module as TorchScript, in eval mode, and in ``file_path`` where one is given.

        ``"trace"`` needs ``example_inputs``, or :attr:`example_input_array`. ``options`` go to ``torch.jit``.
        """
        if method not in ("script", "trace"):
            raise InvalidOption("method", method, '"script" or "trace"')
        module: Any = self
        trainer, module.trainer = module.__dict__.get("_trainer"), None  # TorchScript reads every attribute, and knows none
        try:
            with as_for_use(module):
                if method == "script":
                    made = torch.jit.script(module, **options)
                else:
                    example = _example(module, example_inputs, "to_torchscript")
                    made = torch.jit.trace(func=module, example_inputs=example, **options)
        finally:
            module.trainer = trainer
        if file_path is not None:
            torch.jit.save(made, os.fspath(file_path))
        return made

    def to_onnx(self: Any, file_path: Any = None, input_sample: Any = None, **options: Any) -> Any:
        """Write the module to an ONNX file; ``options`` go to ``torch.onnx.export``, whose result is returned."""
        inputs = _example(self, input_sample, "to_onnx")
        with as_for_use(self):
            return torch.onnx.export(self, inputs if isinstance(inputs, tuple) else (inputs,), file_path, **options)


def _example(module: Any, example: Any, what: str) -> Any:
    example = module.example_input_array if example is None else example
    if example is None:
        raise MissingMethod(
            f"{what} needs an example of what forward gets: pass it, or set {type(module).__name__}.example_input_array."
        )
    return (move_data_to_device(example, module.device)) if not isinstance(example, Tensor) else example.to(module.device)
