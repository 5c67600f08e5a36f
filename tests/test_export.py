"""A module in the forms in which it runs without Python, and modules that hold such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn

import leyden
from leyden.errors import InvalidOption, MissingMethod
from leyden.module import NotAttached
from leyden.testing import BoringModel, random_batches

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")


class Net(BoringModel):
    def __init__(self, scripted: bool = False) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.example_input_array = torch.ones(2, 32)
        if scripted:
            self.layer = torch.jit.script(self.layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.dropout(x))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch).sum()


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("method", ["script", "trace"])
def test_torchscript(attached: bool, method: Any, tmp_path: Path) -> None:
    module, x = Net(), torch.rand(3, 32)
    if attached:
        kit.trainer(limit_train_batches=1, limit_val_batches=0).fit(module, random_batches(1))
    module.train()
    state = torch.get_rng_state()
    made = module.to_torchscript(tmp_path / "net.pt", method=method)
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training
    assert (module._trainer is not None) == attached
    module.eval()
    for each in (made, torch.jit.load(tmp_path / "net.pt")):
        assert torch.equal(each(x), module(x))


@pytest.mark.parametrize("attached", [False, True])
def test_torch_s_own_ways(attached: bool) -> None:
    module, x = Net(), torch.rand(3, 32)
    if attached:
        kit.trainer(limit_train_batches=1, limit_val_batches=0).fit(module, random_batches(1))
    module.eval()
    for made in (torch.jit.script(module), torch.jit.trace(module, x), torch.export.export(module, (x,)).module()):
        assert torch.equal(made(x), module(x))
    if not attached:
        with pytest.raises(NotAttached):
            module.trainer  # noqa: B018  # reading it is the test


def test_what_cannot_be_exported_says_so() -> None:
    module = Net()
    with pytest.raises(InvalidOption, match="method='onnx'"):
        module.to_torchscript(method="onnx")  # type: ignore[arg-type]  # the mistake under test
    module.example_input_array = None
    for export in (lambda: module.to_torchscript(method="trace"), lambda: module.to_onnx("x.onnx")):
        with pytest.raises(MissingMethod, match="needs an example of what forward gets"):
            export()


def test_a_scripted_layer_is_trained_validated_and_saved(tmp_path: Path) -> None:
    module = Net(scripted=True)
    trainer = kit.trainer(limit_train_batches=2, limit_val_batches=2, enable_model_summary=True)
    trainer.fit(module, random_batches(2), random_batches(2))
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    back = Net.load_from_checkpoint(tmp_path / "net.ckpt", scripted=True)
    assert not kit.differences(kit.weights(module), kit.weights(back))


def test_names_of_other_ways_to_run() -> None:
    assert (BoringModel().fabric, BoringModel().device_mesh) == (None, None)
    assert kit.trainer().barebones is False
    assert leyden.Trainer(barebones=True).barebones is True


def test_the_loop_s_batch_after_a_fit() -> None:
    trainer = kit.trainer(limit_val_batches=0)
    trainer.fit(BoringModel(), random_batches(4))
    assert trainer.fit_loop.epoch_loop.batch_idx == 3
