"""A module in the forms in which it runs without Python, and modules that hold such."""

from __future__ import annotations

import copy
import io
import os
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn

import leyden
from leyden.errors import (
    CheckpointWriteFailed,
    InvalidOption,
    InvalidType,
    MissingExample,
    MissingPackage,
    UnknownName,
    Unsupported,
)
from leyden.inspect import export
from leyden.module import NotAttached
from leyden.testing import BoringModel, random_batches
from leyden.utilities.export import to_exported_program

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:.*torch.jit:FutureWarning",
    "ignore:.*legacy TorchScript-based ONNX export:DeprecationWarning",
    "ignore:The feature will be removed:DeprecationWarning",
    "ignore:.isinstance.treespec, LeafSpec.:FutureWarning",  # torch.export says it of itself
)


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
    ways = (lambda: module.to_torchscript(method="trace"), lambda: module.to_onnx("x.onnx"), lambda: to_exported_program(module))
    for way in ways:
        with pytest.raises(MissingExample, match=r"needs an example .*: pass \w+=, or set Net.example_input_array"):
            way()
    with pytest.raises(InvalidOption, match=r"file_path=None.*dynamo=False"):
        module.to_onnx(input_sample=torch.ones(2, 32), dynamo=False)
    for place, error in ((5, InvalidType), (".", InvalidOption)):
        for method in (module.to_onnx, module.to_torchscript, partial(to_exported_program, module)):
            with pytest.raises(error, match=rf"file_path='?{place}'? cannot be used"):
                method(place)
    with pytest.raises(InvalidType, match="module='net'"):
        to_exported_program("net")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(Unsupported, match=r"torch_tensorrt.compile"):
        module.to_tensorrt("net.ep", input_sample=torch.ones(2, 32), ir="dynamo", min_block_size=1)


@pytest.mark.parametrize(("package", "dynamo"), [("onnx", True), ("onnxscript", True), ("onnx", False)])
def test_a_package_that_onnx_needs_is_named(package: str, dynamo: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(MissingPackage, match=f"to_onnx needs the package '{package}'.* pip install {package}$"):
        Net().to_onnx("net.onnx", dynamo=dynamo)


class Two(leyden.LightningModule):
    """Two arguments, a mask that is made once and kept, dropout, and a log in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Linear(4, 3), nn.Dropout(0.5)
        self.mask: Any = None
        self.child = BoringModel()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        y: Tensor = self.dropout(self.layer(x)) + shift
        self.log("mean", y.mean())
        return y

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0], batch[0][:, :3]).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


X, SHIFT = torch.rand(2, 4), torch.rand(2, 3)


def run_onnx(model: Any, *inputs: Tensor) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(model)
    named = {each.name: x.numpy() for each, x in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(None, named)[0])


def as_used(module: nn.Module, *inputs: Tensor) -> Tensor:
    """What a copy of the module gives in eval mode. No trainer runs it, and what it logs is dropped."""
    twin = copy.deepcopy(module).eval()
    twin._said_unattached = True
    found: Tensor = twin(*inputs).detach()
    return found


@pytest.mark.parametrize("example", [(X, SHIFT), [X, SHIFT], {"x": X, "shift": SHIFT}], ids=["tuple", "list", "dict"])
def test_onnx_gives_the_module_s_numbers_and_leaves_no_trace(example: Any) -> None:
    pytest.importorskip("onnxscript")
    module = Two()
    trainer = kit.trainer(limit_val_batches=0)
    trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=2))
    module.train().dropout.eval()
    module.example_input_array = example
    state = torch.get_rng_state()
    file = io.BytesIO()
    program = module.to_onnx(file, input_names=["x", "shift"])
    assert torch.equal(torch.get_rng_state(), state)
    assert (module.training, module.dropout.training, module.child.training) == (True, False, True)
    assert module.trainer is trainer
    assert module.child.trainer is trainer
    assert [each.name for each in program.model.graph.inputs] == ["x", "shift"]
    assert "Trainer" not in str(program.model.graph)
    torch.testing.assert_close(run_onnx(file.getvalue(), X, SHIFT), as_used(module, X, SHIFT))


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (3, InvalidType, "a list of examples, each as example_inputs"),
        ([3], InvalidType, "a list of examples, each as example_inputs"),
        ([torch.ones(1, 3)], InvalidOption, r"what Two\.forward\(.* takes\. It raises TypeError"),
        ([(X, torch.ones(5))], InvalidOption, r"what Two\.forward\(.* takes\. It raises RuntimeError"),
    ],
)
def test_inputs_to_check_a_trace_with_are_examples(given: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"(?s)check_inputs=.* cannot be used: expected {says}"):
        Two().to_torchscript(method="trace", example_inputs=(X, SHIFT), check_inputs=given)
    Two().to_torchscript(method="trace", example_inputs=(X, SHIFT), check_inputs=[(X, SHIFT)])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"input_names": 3}, "input_names=3 cannot be used: expected a list"),
        ({"input_names": "x"}, "input_names='x' cannot be used: expected a list of names"),
        ({"output_names": [3]}, r"output_names=\[3\] cannot be used: expected a list of names"),
        ({"opset_version": "18"}, "opset_version='18' cannot be used: expected the number of an opset"),
        ({"dynamic_axes": 3}, "dynamic_axes=3 cannot be used: expected a dict"),
        ({"dynamic_shapes": 3}, "dynamic_shapes=3 cannot be used"),
        ({"kwargs": 3}, "kwargs=3 cannot be used: expected a dict"),
        ({"dynamo": "no"}, "dynamo='no' cannot be used: expected True or False"),
    ],
)
def test_what_torch_s_exporter_has_no_use_for_is_named_before_the_work(given: Any, says: str) -> None:
    with pytest.raises(InvalidType, match=says):
        Two().to_onnx(io.BytesIO(), (X, SHIFT), **given)


def test_what_torch_s_other_ways_have_no_use_for_is_named(tmp_path: Path) -> None:
    for given in ({"strict": "no"}, {"check_tolerance": "x"}, {"check_trace": "x"}):
        with pytest.raises(InvalidType, match=f"{next(iter(given))}=.* cannot be used"):
            Two().to_torchscript(method="trace", example_inputs=(X, SHIFT), **given)
    for given in ({"strict": "no"}, {"dynamic_shapes": "x"}):
        with pytest.raises(InvalidType, match=f"{next(iter(given))}=.* cannot be used"):
            to_exported_program(Two(), tmp_path / "a.pt2", (X, SHIFT), **given)


def test_onnx_files_take_other_batch_sizes_and_the_exporter_of_old(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    module = Net()
    module.to_onnx(tmp_path / "deep" / "net.onnx", torch.ones(2, 32), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.rand(7, 32)
    torch.testing.assert_close(run_onnx(tmp_path / "deep" / "net.onnx", x), as_used(module, x))
    file = io.BytesIO()
    assert module.to_onnx(file, dynamo=False) is None
    torch.testing.assert_close(run_onnx(file.getvalue(), x[:2]), as_used(module, x[:2]))
    assert module.training


def test_an_exported_program_gives_the_module_s_numbers_without_its_class(tmp_path: Path) -> None:
    module = Two()
    program = to_exported_program(module, tmp_path / "deep" / "two.pt2", {"x": X, "shift": SHIFT})
    assert torch.equal(program.module()(x=X, shift=SHIFT), as_used(module, X, SHIFT))
    loaded = kit.in_a_fresh_process(
        """
        import sys, torch
        torch.manual_seed(0)
        print(torch.export.load(sys.argv[1]).module()(x=torch.ones(2, 4), shift=torch.zeros(2, 3)).tolist())
        print("leyden" in sys.modules)
        """,
        tmp_path / "deep" / "two.pt2",
    ).splitlines()
    torch.testing.assert_close(torch.tensor(eval(loaded[0])), as_used(module, torch.ones(2, 4), torch.zeros(2, 3)))
    assert loaded[1] == "False"
    plain = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
    file = io.BytesIO()
    to_exported_program(plain, file, X, dynamic_shapes=({0: torch.export.Dim("batch")},))
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(X[:1].repeat(5, 1)), as_used(plain, X[:1].repeat(5, 1)))
    assert plain.training


def test_an_example_takes_the_way_of_a_batch() -> None:
    class Pixels(Net):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch.float() / 255

    module, seen = Pixels(), torch.full((2, 32), 255, dtype=torch.uint8)
    module.example_input_array = seen
    traced = module.to_torchscript(method="trace")
    assert torch.equal(traced(torch.ones(2, 32)), as_used(module, torch.ones(2, 32)))
    assert to_exported_program(module).example_inputs[0][0].dtype == torch.float32


def test_torchscript_goes_to_a_url_and_to_an_open_file() -> None:
    module = Two()
    file = io.BytesIO()
    traced = module.to_torchscript("memory://net.pt", "trace", {"x": X, "shift": SHIFT})
    module.to_torchscript(file, method="trace", example_inputs=(X, SHIFT))
    file.seek(0)
    import fsspec

    for made in (traced, torch.jit.load(fsspec.open("memory://net.pt").open()), torch.jit.load(file)):
        assert torch.equal(made(X, SHIFT), as_used(module, X, SHIFT))


def test_an_example_that_forward_does_not_take_is_named() -> None:
    module = Net()
    examples = ({"y": X}, [X, X], "abc", (None,), 3, torch.ones(2, 7))
    for example in examples:
        for way in (partial(module.to_torchscript, None, "trace"), partial(to_exported_program, module, None)):
            with pytest.raises(
                InvalidOption, match=r"(?s)(sample|inputs)=.*expected what Net.forward\(x: .*It raises \w+Error: "
            ):
                way(example)
    module.example_input_array = torch.ones(2, 7)
    with pytest.raises(InvalidOption, match=r"(?s)example_input_array=.*RuntimeError: mat1 and mat2"):
        module.to_onnx()


def test_a_place_where_no_file_can_be_is_named_before_the_work(own_folder: Path) -> None:
    Path("file").write_text("")
    module = Net()
    ways = (module.to_onnx, module.to_torchscript, partial(to_exported_program, module))
    with open("text", "w") as text:
        for place, error in (
            ("file/net", CheckpointWriteFailed),
            ("new/", InvalidOption),
            ("a\0b", InvalidOption),
            (text, InvalidType),
        ):
            for way in ways:
                with pytest.raises(error, match=r"^file_path="):
                    way(place)
    closed = io.BytesIO()
    closed.close()
    with open("file", "rb") as only_read:
        for file in (closed, only_read):
            for way in ways:
                with pytest.raises(InvalidOption, match="a file that is open for writing bytes"):
                    way(file)
    for way in ways:
        with pytest.raises(InvalidOption, match="fsspec knows"):
            way("nowhere://net")
    with pytest.raises(UnknownName, match=r"'dynamic_shape'\. Did you mean 'dynamic_shapes'"):
        to_exported_program(module, dynamic_shape=None)
    assert sorted(os.listdir()) == ["file", "text"]


def test_onnx_goes_to_a_url(own_folder: Path) -> None:
    import fsspec
    import onnx

    Net().to_onnx("memory://some/net.onnx", verbose=False)
    with fsspec.open("memory://some/net.onnx") as file:
        onnx.checker.check_model(onnx.load(file))
    assert os.listdir() == []


def test_an_export_that_fails_puts_everything_back() -> None:
    class Failing(Net):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            raise RuntimeError("forward cannot do this")

    module = Failing()
    kit.trainer(limit_train_batches=0, limit_val_batches=0).fit(module, random_batches(1))
    trainer, state = module.trainer, torch.get_rng_state()
    for way in (lambda: module.to_torchscript(method="trace"), lambda: to_exported_program(module)):
        with pytest.raises(Exception, match="forward cannot do this"):
            way()
    assert torch.equal(torch.get_rng_state(), state)
    assert module.trainer is trainer
    assert module.training


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
