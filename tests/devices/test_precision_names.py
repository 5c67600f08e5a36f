"""A precision of the user's own, written for Lightning 2.6: what it overrides by Lightning's names is asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn

import leyden
from leyden.accelerators import AcceleratorRegistry
from leyden.plugins import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from leyden.testing import BoringModel
from leyden.utilities.enums import GradClipAlgorithmType

_NAMES = """
    convert_module convert_input train_step_context val_step_context test_step_context predict_step_context pre_backward backward
    post_backward optimizer_step clip_gradients clip_grad_by_norm main_params connect state_dict on_save_checkpoint
    on_load_checkpoint teardown
"""
NAMES = _NAMES.split()


def counting(base: type[Precision], *args: Any) -> tuple[Precision, Counter[str]]:
    """A precision of a subclass that counts every call, and the counts."""
    asked: Counter[str] = Counter()

    def own(name: str) -> Any:
        method = getattr(base, name)

        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            asked[name] += 1
            return method(self, *args, **kwargs)

        return called

    mine: type[Precision] = type("Mine", (base,), {name: own(name) for name in NAMES})
    return mine(*args), asked


class Adam(BoringModel):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fitted(precision: Precision, epochs: int = 1, ckpt_path: Any = None, **options: Any) -> leyden.Trainer:
    torch.manual_seed(1)
    counts = {"limit_train_batches": 4, "limit_val_batches": 1, "limit_test_batches": 2, "num_sanity_val_steps": 0}
    run = leyden.Trainer(
        **{**kit.QUIET, **counts, "gradient_clip_val": 0.5, "accumulate_grad_batches": 2, **options},
        max_epochs=epochs,
        plugins=precision,
    )
    run.fit(Adam(), ckpt_path=ckpt_path)
    return run


@pytest.mark.parametrize(
    ("base", "args"),
    [
        (Precision, ()),
        (DoublePrecision, ()),
        (HalfPrecision, ("bf16-true",)),
        (MixedPrecision, ("bf16-mixed", "cpu")),
        (MixedPrecision, ("16-mixed", "cpu")),
    ],
)
def test_what_is_overridden_by_lightnings_names_is_asked(base: type[Precision], args: tuple[Any, ...], tmp_path: Path) -> None:
    precision, asked = counting(base, *args)
    run = fitted(precision)
    assert run.lightning_module is not None
    run.test(run.lightning_module, verbose=False)
    run.save_checkpoint(tmp_path / "x.ckpt")
    converted = asked.pop("convert_input")
    assert converted == 7
    # the figures are those of Lightning 2.6.6, where the same class was run
    assert asked == {
        "convert_module": 2,
        "connect": 2,
        "train_step_context": 4,
        "val_step_context": 1,
        "test_step_context": 2,
        "pre_backward": 4,
        "backward": 4,
        "post_backward": 4,
        "optimizer_step": 2,
        "clip_gradients": 2,
        "clip_grad_by_norm": 2,
        "main_params": 2,
        "teardown": 2,
        "state_dict": 1,
        "on_save_checkpoint": 1,
    }
    plain = fitted(base(*args))
    assert not kit.differences(kit.weights(plain.lightning_module), kit.weights(run.lightning_module))
    again, asked = counting(base, *args)
    resumed = fitted(again, 2, tmp_path / "x.ckpt")
    assert asked["on_load_checkpoint"] == 1
    whole = fitted(base(*args), 2)
    assert not kit.differences(kit.weights(whole.lightning_module), kit.weights(resumed.lightning_module))


def test_what_it_changes_counts() -> None:
    class Mine(Precision):
        precision = "mine"

        def pre_backward(self, tensor: Tensor, module: nn.Module) -> Tensor:
            return super().pre_backward(tensor, module) * 0

        def clip_grad_by_norm(self, optimizer: Any, clip_val: float) -> None:
            assert clip_val == 0.5
            for parameter in self.main_params(optimizer):
                assert parameter.grad is not None
                assert not parameter.grad.any()

        def optimizer_step(self, optimizer: Any, model: Any, closure: Any, **kwargs: Any) -> Any:
            loss = closure()
            assert loss.ndim == 0
            assert isinstance(model, Adam)
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            optimizer.step()
            return loss

    torch.manual_seed(1)
    before = kit.weights(Adam())
    run = fitted(Mine())
    assert (run.precision, run.precision_plugin.name) == ("mine", "mine")
    assert not kit.differences(before, kit.weights(run.lightning_module))
    assert run.global_step == 2


def test_what_it_puts_in_the_optimizers_place_is_stepped() -> None:
    class Slow(Precision):
        def connect(self, model: nn.Module, optimizers: Any, lr_schedulers: Any) -> Any:
            return model, [torch.optim.SGD(model.parameters(), lr=0.0) for _ in optimizers], lr_schedulers

    torch.manual_seed(1)
    before = kit.weights(Adam())
    run = fitted(Slow())
    assert isinstance(run.optimizers[0], torch.optim.SGD)
    assert not kit.differences(before, kit.weights(run.lightning_module))


def test_its_own_contexts_count_in_their_stage_alone() -> None:
    class Mine(Precision):
        def val_step_context(self) -> Any:
            return torch.autocast("cpu", dtype=torch.bfloat16)

    seen: dict[str, Any] = {}

    class Noting(Adam):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen["train"] = torch.is_autocast_enabled("cpu")
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen["val"] = torch.is_autocast_enabled("cpu")
            return super().validation_step(batch, batch_idx)

    leyden.Trainer(**kit.QUIET, fast_dev_run=True, plugins=[Mine()]).fit(Noting())
    assert seen == {"train": False, "val": True}


def test_clipping_by_hand() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    precision = Precision()
    assert list(precision.main_params(optimizer)) == [parameter]
    for algorithm, expected in ((GradClipAlgorithmType.VALUE, [1.0, 1.0]), ("norm", [0.6, 0.8])):
        parameter.grad = torch.tensor([3.0, 4.0])
        precision.clip_gradients(optimizer, 1.0, algorithm)
        assert torch.allclose(parameter.grad, torch.tensor(expected))
    parameter.grad = torch.tensor([3.0, 4.0])
    precision.clip_gradients(optimizer)
    assert parameter.grad.tolist() == [3.0, 4.0]


def test_unscaling_and_contexts_by_lightnings_names() -> None:
    precision = MixedPrecision("16-mixed", "cpu")
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    loss = precision.pre_backward(weight.sum(), nn.Linear(1, 1))
    precision.backward(loss, None, optimizer)
    precision.unscale_gradients(optimizer)
    assert weight.grad is not None
    assert weight.grad.item() == 1.0
    assert not precision.post_backward(loss, nn.Linear(1, 1)).requires_grad
    with precision.autocast_context_manager():
        assert torch.is_autocast_enabled("cpu")
    data = {"x": torch.ones(1)}
    assert precision.convert_output(data) is data
    with DoublePrecision().tensor_init_context(), DoublePrecision().module_init_context():
        assert torch.ones(1).dtype is torch.float64


def test_manual_optimization_asks_too() -> None:
    class Manual(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch).sum())
            optimizer.step()

    precision, asked = counting(Precision)
    leyden.Trainer(**kit.QUIET, max_steps=3, limit_val_batches=0, plugins=precision).fit(Manual())
    assert [asked[name] for name in ("pre_backward", "backward", "post_backward", "optimizer_step")] == [3, 3, 3, 3]


def test_the_page_of_the_plug_ins_runs(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    try:
        exec(page.split("```python\n")[1].split("```")[0], {"__name__": "page"})
    finally:
        AcceleratorRegistry.remove("my_cpu")
    assert capsys.readouterr().out.startswith("hello from MyCPU")
