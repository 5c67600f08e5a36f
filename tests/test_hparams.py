"""Hyper-parameters: found without looking at the stack, kept as Lightning keeps them, and used to make the module again."""

from __future__ import annotations

import abc
import copy
import gc
import inspect
import io
import pickle
import random
import sys
import weakref
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
import torch
from torch import nn
from warm_python import python

from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.format import Unwritable, decode, encode
from leyden.datamodule import LightningDataModule
from leyden.errors import (
    CheckpointDamaged,
    CheckpointForeign,
    CheckpointMismatch,
    CheckpointMissing,
    ConflictingOptions,
    InvalidOption,
    InvalidType,
    LeydenWarning,
    MissingHyperparameter,
    MissingPackage,
    PossibleUserWarning,
)
from leyden.hparams import AttributeDict, HyperparametersMixin, UnknownHyperparameter, put_hparams
from leyden.module import LightningModule
from leyden.testing import BoringModel
from leyden.trainer.trainer import Trainer

T = TypeVar("T")
REAL = Path(__file__).parent / "checkpoint" / "data" / "lightning-2.6.6.ckpt"


def save(module: Any, path: Any, **more: Any) -> None:
    """As the trainer writes it."""
    checkpoint = {"state_dict": module.state_dict(), "leyden": {"init_arguments": module._init_arguments()}}
    put_hparams(module, checkpoint)
    TorchCheckpointIO().save_checkpoint(encode({**checkpoint, **more}), path)


def dumped(owner: Any, prefix: str = "") -> dict[str, Any]:
    """The keys of a checkpoint that are about hyper-parameters, without pickles."""
    checkpoint: dict[str, Any] = {"state_dict": {}, "leyden": {}}
    put_hparams(owner, checkpoint, prefix=prefix)
    return {name: value for name, value in checkpoint.items() if name not in ("state_dict", "leyden")}


class Base(LightningModule):
    def __init__(self, a: int = 1, width: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width)
        self.save_hyperparameters()


class Child(Base):
    def __init__(self, b: int, a: int = 5) -> None:
        super().__init__(a=a + 1)


class ChildIgnores(Base):
    def __init__(self, b: int, a: int = 5) -> None:
        super().__init__(a=a + 1)
        self.save_hyperparameters(ignore="b")


class Many(LightningModule):
    def __init__(self, a: int, *args: int, b: int = 2, **others: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.save_hyperparameters()


class Silent(LightningModule):
    """Never calls save_hyperparameters."""

    def __init__(self, width: int, activation: str = "relu", sizes: Any = (1, 2)) -> None:
        super().__init__()
        self.layer = nn.Linear(2, width)
        self.sizes = sizes


class Configured(LightningModule):
    def __init__(self, conf: Any, other: int = 2) -> None:
        super().__init__()
        self.conf = conf
        self.layer = nn.Linear(1, 1)
        self.save_hyperparameters(conf)


class WithNet(LightningModule):
    def __init__(self, net: Any, lr: float = 0.1, loss: Any = len) -> None:
        super().__init__()
        self.net = net
        self.save_hyperparameters(ignore=["net"])


@dataclass
class Config:
    x: int = 1
    path: Path = Path("a")


class TestSaving:
    def test_all_arguments_of_the_constructors_that_run(self):
        assert Child(3).hparams == {"a": 5, "width": 2, "b": 3}  # the outermost constructor's word counts
        assert Many(1, 9, 8, c=3).hparams == {"a": 1, "b": 2, "c": 3}
        assert Many(1)._hparams_name == "kwargs"

    def test_a_subclass_may_take_back_what_its_base_saved(self):
        assert ChildIgnores(3).hparams == {"a": 5, "width": 2}
        module = Child(3)
        module.remove_ignored_hparams(["a", "none"])
        assert module.hparams == {"width": 2, "b": 3}

    @pytest.mark.parametrize("ignore", ["b", ["b"], ("b",), {"b"}])
    def test_ignored_names(self, ignore: Any):
        class Module(LightningModule):
            def __init__(self, a: int, b: int) -> None:
                super().__init__()
                self.save_hyperparameters(ignore=ignore)

        assert Module(1, 2).hparams == {"a": 1}

    def test_chosen_names(self):
        class Module(LightningModule):
            def __init__(self, a: int, b: int, c: int = 3) -> None:
                super().__init__()
                self.save_hyperparameters("a", "c")

        assert Module(1, 2).hparams == {"a": 1, "c": 3}

    def test_an_unknown_name(self):
        class Module(LightningModule):
            def __init__(self, learning_rate: int) -> None:
                super().__init__()
                self.save_hyperparameters("learing_rate")

        with pytest.raises(UnknownHyperparameter, match=r"no argument of that name\. Did you mean 'learning_rate'\?"):
            Module(1)
        with pytest.raises(KeyError):
            Module(1)

    @pytest.mark.parametrize("conf", [{"x": 1, "path": Path("a")}, Namespace(x=1, path=Path("a")), Config()])
    def test_one_object(self, conf: Any):
        module = Configured(conf)
        assert module.hparams == {"x": 1, "path": Path("a")}
        assert module._hparams_name == "conf"

    def test_a_copy_of_an_argument_is_recognised(self):
        class Module(LightningModule):
            def __init__(self, conf: dict[str, int]) -> None:
                super().__init__()
                self.save_hyperparameters(dict(conf))

        assert Module({"a": 1})._hparams_name == "conf"

    def test_several_objects_and_names_are_merged(self):
        class Module(LightningModule):
            def __init__(self, one: Any, two: Any, lr: float) -> None:
                super().__init__()
                self.save_hyperparameters(one, two, "lr")

        module = Module({"a": 1}, Namespace(b=2), 0.1)
        assert module.hparams == {"a": 1, "b": 2, "lr": 0.1}
        assert module._hparams_name == "kwargs"

    @pytest.mark.parametrize("value", [3, [1], object(), Config])
    def test_a_value_without_names_is_refused(self, value: Any):
        with pytest.raises(InvalidType, match="expected a dict, a namespace, a dataclass object, or names"):
            Configured(value)

    @pytest.mark.parametrize("value", [None, {}, []])
    def test_nothing_saves_nothing(self, value: Any):
        assert Configured(value).hparams == {}

    def test_a_module_is_kept_with_a_warning_that_says_how_to_leave_it_out(self):
        class Module(LightningModule):
            def __init__(self, net: nn.Module) -> None:
                super().__init__()
                self.save_hyperparameters()

        net = nn.Linear(1, 1)
        with pytest.warns(PossibleUserWarning, match=r"'net' is a torch module.*save_hyperparameters\(ignore=\['net'\]\)"):
            module = Module(net)
        assert module.hparams.net is net
        assert module.hparams_initial.net is net
        module.save_hyperparameters({"other": 1})  # said once; a second warning would be an error here

    def test_outside_the_constructor(self):
        module = Silent(3)
        module.save_hyperparameters()
        assert module.hparams == {"width": 3, "activation": "relu", "sizes": (1, 2)}

    def test_the_frame_is_accepted(self):
        class Module(LightningModule):
            def __init__(self, a: int) -> None:
                super().__init__()
                self.save_hyperparameters(frame=inspect.currentframe(), logger=False)

        assert Module(1).hparams == {"a": 1}
        assert not Module(1)._log_hyperparams
        assert Base()._log_hyperparams

    def test_hparams_may_be_changed_and_the_initial_ones_stay(self):
        module = Configured({"sizes": [1]})
        module.hparams.sizes.append(2)
        module.hparams["new"] = 3
        module.hparams_initial.sizes.append(9)
        assert module.hparams == {"sizes": [1, 2], "new": 3}
        assert module.hparams_initial == {"sizes": [1]}
        assert type(module.hparams_initial) is AttributeDict

    def test_what_cannot_be_copied_is_shared(self):
        module = Configured({"generator": (i for i in range(3))})
        assert module.hparams_initial.generator is module.hparams.generator

    def test_without_saving_there_are_none(self):
        assert Silent(3).hparams == {}
        assert Silent(3).hparams_initial == {}

    def test_assigning_as_in_2019(self):
        class Module(LightningModule):
            def __init__(self, hparams: Namespace) -> None:
                super().__init__()
                self.hparams = hparams

        module = Module(Namespace(lr=0.1))
        assert module.hparams.lr == 0.1
        assert module._hparams_name == "hparams"
        assert module.hparams_initial == {"lr": 0.1}

    def test_assigning_none_as_in_2019(self):
        class Module(LightningModule):
            def __init__(self, hparams: Namespace | None = None) -> None:
                super().__init__()
                self.hparams = hparams

        assert Module().hparams == Module().hparams_initial == {}


class TestRecording:
    def test_signatures_are_unchanged(self):
        assert str(inspect.signature(Many)) == "(a: 'int', *args: 'int', b: 'int' = 2, **others: 'Any') -> 'None'"
        assert inspect.getfullargspec(Many.__init__).args == ["self", "a"]
        assert Many.__init__.__name__ == "__init__"
        assert Many.__init__.__qualname__ == "Many.__init__"
        assert "self.save_hyperparameters()" in inspect.getsource(Many.__init__)

    def test_wrong_arguments_raise_what_they_always_raised(self):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
            Child()  # type: ignore[call-arg]  # on purpose

    def test_arguments_are_remembered_without_a_call(self):
        assert decode(Silent(3, sizes=[4])._init_arguments()) == {"width": 3, "activation": "relu", "sizes": [4]}
        assert decode(Child(3)._init_arguments()) == {"b": 3, "a": 5}

    def test_they_are_remembered_as_they_were_given(self):
        class Module(LightningModule):
            def __init__(self, sizes: list[int], weight: torch.Tensor) -> None:
                super().__init__()
                sizes.append(9)
                weight.zero_()

        kept = Module([1], torch.ones(2))._init_arguments()
        assert kept["sizes"] == [1]
        assert kept["weight"].tolist() == [1, 1]

    def test_what_cannot_be_written_is_remembered_by_its_type(self):
        kept = decode(WithNet(nn.Linear(1, 1))._init_arguments())
        assert kept == {"net": Unwritable("net", "torch.nn.modules.linear.Linear"), "lr": 0.1}  # `loss` is its own default

    @pytest.mark.parametrize("value", [torch.zeros(1 << 19), "x" * (2 << 20), [0] * (1 << 18), {"a": np.zeros(1 << 20)}])
    def test_what_is_large_is_not_kept(self, value: Any):
        kept = decode(Silent(3, sizes=value)._init_arguments())
        assert kept["sizes"].type.endswith("of more than a megabyte")

    def test_a_mapping_of_a_users_own_is_not_read(self):
        class Lazy(dict[str, int]):
            def items(self) -> Any:
                raise AssertionError("read")

            __iter__ = keys = items

        assert isinstance(decode(Silent(3, sizes=Lazy(a=1))._init_arguments())["sizes"], Unwritable)

    def test_nothing_large_is_kept_alive(self):
        class Data:
            pass

        data = Data()
        seen = weakref.ref(data)
        module = Silent(3, sizes=None)
        module.__init__(3, sizes=data)  # type: ignore[misc]  # as a constructor would
        module.sizes = None
        del data
        gc.collect()
        assert seen() is None

    def test_a_failed_constructor_leaves_nothing_behind(self):
        class Failing(LightningModule):
            def __init__(self, a: Any) -> None:
                super().__init__()
                raise ValueError("no")

        module = Failing.__new__(Failing)
        with pytest.raises(ValueError, match="no"):
            module.__init__(1)  # type: ignore[misc]  # to have the half-made instance
        assert "_constructors" not in module.__dict__

    def test_two_modules_at_once(self):
        class Outer(LightningModule):
            def __init__(self, a: int) -> None:
                super().__init__()
                self.inner = Many(a + 1)
                self.save_hyperparameters()

        outer = Outer(1)
        assert outer.hparams == {"a": 1}
        assert outer.inner.hparams == {"a": 2, "b": 2}

    def test_generic_abstract_and_several_bases(self):
        class Mixin(HyperparametersMixin):
            def __init__(self, extra: int = 7, **kwargs: Any) -> None:
                super().__init__(**kwargs)

        class Abstract(abc.ABC):
            @abc.abstractmethod
            def build(self) -> int: ...

        class Module(Mixin, LightningModule, Abstract, Generic[T]):
            def __init__(self, a: int, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                self.save_hyperparameters()

            def build(self) -> int:
                return 1

        assert Module[int](1, extra=8).hparams == {"a": 1, "extra": 8}

    def test_a_constructor_made_by_dataclass(self):
        @dataclass(eq=False)
        class Module(LightningModule):
            x: int = 3
            net: Any = None

            def __post_init__(self) -> None:
                super().__init__()
                self.save_hyperparameters("x")

        module = Module(4)
        assert module.hparams == {"x": 4}
        assert module._init_arguments() == {"x": 4, "net": None}

    def test_wrapping_happens_once(self):
        class Again(Silent):
            __init__ = Silent.__init__

        assert Again.__init__ is Silent.__init__
        assert decode(Again(3)._init_arguments())["width"] == 3

    def test_copies_and_pickles_keep_them(self):
        for module in (copy.deepcopy(Child(3)), pickle.loads(pickle.dumps(Child(3)))):
            assert module.hparams == {"a": 5, "width": 2, "b": 3}
            assert module.hparams_initial == module.hparams
            assert decode(module._init_arguments()) == {"b": 3, "a": 5}

    def test_a_plain_class_may_use_the_mixin(self):
        class Plain(HyperparametersMixin):
            def __init__(self, a: int) -> None:
                self.save_hyperparameters()

        assert Plain(1).hparams == {"a": 1}


class TestDumping:
    def test_lightnings_keys(self):
        assert dumped(Child(3)) == {
            "hparams_name": "kwargs",
            "hyper_parameters": {"a": 5, "width": 2, "b": 3},
            "hparams_type": "AttributeDict",
        }
        assert set(dumped(Child(3), "datamodule_")) == {
            "datamodule_hparams_name",
            "datamodule_hyper_parameters",
            "datamodule_hparams_type",
        }
        assert dumped(Silent(3)) == {}

    def test_a_default_that_cannot_be_written_is_left_out(self):
        assert dumped(WithNet(None))["hyper_parameters"] == {"lr": 0.1}
        assert list(dumped(WithNet(None, loss=max))["hyper_parameters"]) == ["lr", "loss"]


class TestLoading:
    def test_arguments_and_weights_come_back(self, tmp_path: Path):
        for module in (Child(3), Silent(3, sizes=[Path("a")]), Many(1, c=Config())):
            save(module, tmp_path / "a.ckpt")
            loaded = type(module).load_from_checkpoint(tmp_path / "a.ckpt")
            assert torch.equal(loaded.layer.weight, module.layer.weight)
            assert loaded.hparams == module.hparams
            assert loaded._init_arguments() == module._init_arguments()

    def test_arguments_may_be_overridden(self, tmp_path: Path):
        save(Child(3), tmp_path / "a.ckpt")
        assert Child.load_from_checkpoint(tmp_path / "a.ckpt", b=4).hparams["b"] == 4

    def test_what_was_changed_in_hparams_counts(self, tmp_path: Path):
        module = Child(3)
        module.hparams.b = 9
        save(module, tmp_path / "a.ckpt")
        assert Child.load_from_checkpoint(tmp_path / "a.ckpt").hparams.b == 9

    @pytest.mark.parametrize("conf", [{"x": 1}, Namespace(x=1), Config(x=1), AttributeDict(x=1)])
    def test_an_object_comes_back_in_its_form(self, tmp_path: Path, conf: Any):
        module = Configured(conf, other=7)
        module.hparams.x = 5
        save(module, tmp_path / "a.ckpt")
        loaded = Configured.load_from_checkpoint(tmp_path / "a.ckpt")
        if not isinstance(conf, dict):
            assert type(loaded.conf) is type(conf)
            assert loaded.conf.x == 5
        assert loaded.hparams.x == 5
        assert decode(loaded._init_arguments())["other"] == 7

    def test_an_argument_that_was_not_written_is_asked_for_by_name(self, tmp_path: Path):
        module = WithNet(nn.Linear(1, 2))
        save(module, tmp_path / "a.ckpt")
        with pytest.raises(
            MissingHyperparameter,
            match=r"'net' \(was a torch\.nn.*Linear, which cannot be written\).*load_from_checkpoint\(path, net=\.\.\.\)",
        ):
            WithNet.load_from_checkpoint(tmp_path / "a.ckpt")
        assert torch.equal(WithNet.load_from_checkpoint(tmp_path / "a.ckpt", net=nn.Linear(1, 2)).net.weight, module.net.weight)

    def test_an_ignored_argument_is_not_in_the_file_and_gets_its_default(self, tmp_path: Path):
        class Transfer(LightningModule):
            def __init__(self, token: str = "", backbone: nn.Module | None = None, width: int = 2) -> None:
                super().__init__()
                self.token, self.given = token, backbone is not None
                self.backbone = backbone or nn.Linear(1, width)
                self.save_hyperparameters(ignore=["token", "backbone"])

        module = Transfer("secret", nn.Linear(1, 3), 3)
        save(module, tmp_path / "a.ckpt")
        assert "secret" not in str(torch.load(tmp_path / "a.ckpt", weights_only=True))
        loaded = Transfer.load_from_checkpoint(tmp_path / "a.ckpt")
        assert (loaded.token, loaded.given) == ("", False)
        assert torch.equal(loaded.backbone.weight, module.backbone.weight)

    def test_of_what_nobody_asked_to_keep_the_default_is_taken_and_said(self, tmp_path: Path):
        class NeverSaved(LightningModule):
            def __init__(self, backbone: nn.Module | None = None, width: int = 2) -> None:
                super().__init__()
                self.backbone, self.width = backbone or nn.Linear(1, width), width

        class SavesWidth(NeverSaved):
            def __init__(self, backbone: nn.Module | None = None, width: int = 2) -> None:
                super().__init__(backbone, width)
                self.save_hyperparameters("width")  # as good as ignore=["backbone"]

        for kind in (NeverSaved, SavesWidth):
            module = kind(nn.Linear(1, 3), width=3)
            save(module, tmp_path / "a.ckpt")
            with nullcontext() if kind is SavesWidth else pytest.warns(LeydenWarning, match="as 'backbone'.*the default, None"):
                loaded = kind.load_from_checkpoint(tmp_path / "a.ckpt")
            assert loaded.width == 3
            assert torch.equal(loaded.backbone.weight, module.backbone.weight)

    def test_what_nobody_asked_to_keep_is_not_warned_of(self, tmp_path: Path):
        class NeverSaved(BoringModel):
            def __init__(self, encoder: nn.Module) -> None:
                super().__init__()
                self.encoder = encoder

        trainer = Trainer(max_epochs=1, logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
        trainer.fit(NeverSaved(nn.Linear(1, 1)))  # a warning would be an error here
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        with pytest.raises(MissingHyperparameter, match=r"'encoder' .was a torch.nn.modules.linear.Linear"):
            NeverSaved.load_from_checkpoint(tmp_path / "a.ckpt")

    def test_a_required_argument_that_is_not_there(self, tmp_path: Path):
        torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
        with pytest.raises(TypeError, match=r"Silent cannot be made from '.*a\.ckpt'.*'width'\. Pass what is missing"):
            Silent.load_from_checkpoint(tmp_path / "a.ckpt")

    def test_strict_names_what_does_not_fit(self, tmp_path: Path):
        class Other(Silent):
            def __init__(self, width: int) -> None:
                super().__init__(width)
                self.extra = nn.Linear(1, 1)

        save(Silent(3), tmp_path / "a.ckpt")
        with pytest.raises(CheckpointMismatch, match=r"do not fit Other.*[\s\S]*extra\.weight[\s\S]*strict=False"):
            Other.load_from_checkpoint(tmp_path / "a.ckpt")
        with pytest.warns(LeydenWarning, match=r"not in the file, so left as they were made: extra\.weight, extra\.bias"):
            Other.load_from_checkpoint(tmp_path / "a.ckpt", strict=False)
        save(Other(3), tmp_path / "b.ckpt")
        with pytest.warns(LeydenWarning, match=r"in the file, but not in the module: extra\.weight, extra\.bias"):
            Silent.load_from_checkpoint(tmp_path / "b.ckpt", strict=False)
        with pytest.raises(CheckpointMismatch, match="size mismatch"):
            Silent.load_from_checkpoint(tmp_path / "a.ckpt", strict=False, width=4)

    def test_the_modules_own_strictness(self, tmp_path: Path):
        class Lenient(Silent):
            def __init__(self, width: int) -> None:
                super().__init__(width)
                self.strict_loading = False

        save(Silent(3), tmp_path / "a.ckpt", state_dict={})
        with pytest.warns(LeydenWarning, match="not in the file"):
            Lenient.load_from_checkpoint(tmp_path / "a.ckpt")
        with pytest.raises(ConflictingOptions, match="strict=True was passed"):
            Lenient.load_from_checkpoint(tmp_path / "a.ckpt", strict=True)

    def test_the_hook_sees_the_checkpoint_before_the_state_is_loaded(self, tmp_path: Path):
        class Renames(Silent):
            def configure_model(self) -> None:
                self.made = True

            def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
                assert self.made
                self.vocabulary = checkpoint["vocabulary"]
                checkpoint["state_dict"]["layer.weight"].zero_()

        save(Silent(3), tmp_path / "a.ckpt", vocabulary={Path("a")})
        loaded = Renames.load_from_checkpoint(tmp_path / "a.ckpt")
        assert loaded.vocabulary == {Path("a")}
        assert loaded.layer.weight.abs().sum() == 0

    def test_the_global_random_state_is_untouched(self, tmp_path: Path):
        save(Silent(3), tmp_path / "a.ckpt")
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
        Silent.load_from_checkpoint(tmp_path / "a.ckpt")
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_a_file_of_lightning(self):
        class Tiny(LightningModule):
            def __init__(self, lr: float = 0.5, width: int = 1) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.layer = nn.Linear(3, width)

        loaded = Tiny.load_from_checkpoint(REAL)
        assert loaded.hparams == {"lr": 0.1, "width": 2}
        assert loaded.layer.weight.shape == (2, 3)

    def test_files_of_2019(self, tmp_path: Path):
        class Old(LightningModule):
            def __init__(self, hparams: Any) -> None:
                super().__init__()
                self.hparams = hparams

        class Newer(LightningModule):
            def __init__(self, lr: float) -> None:
                super().__init__()
                self.lr = lr

        for kind in ("Namespace", "dict"):
            torch.save({"state_dict": {}, "hparams": {"lr": 0.3}, "hparams_type": kind}, tmp_path / "a.ckpt")
            kept = Old.load_from_checkpoint(tmp_path / "a.ckpt").hparams
            assert kept == (Namespace(lr=0.3) if kind == "Namespace" else {"lr": 0.3})
            assert Newer.load_from_checkpoint(tmp_path / "a.ckpt").lr == 0.3
        torch.save({"state_dict": {}, "module_arguments": {"lr": 0.4}}, tmp_path / "a.ckpt")
        assert Newer.load_from_checkpoint(tmp_path / "a.ckpt").lr == 0.4

    def test_what_is_no_argument_is_not_passed(self, tmp_path: Path):
        class Fixed(Base):
            def __init__(self, b: int, **others: Any) -> None:
                super().__init__(a=2, **others)

        save(Fixed(1), tmp_path / "a.ckpt")  # `a` is in hparams, and Fixed must not be given it
        assert Fixed.load_from_checkpoint(tmp_path / "a.ckpt").hparams == {"a": 2, "width": 2, "b": 1}
        torch.save(
            {"state_dict": {}, "hyper_parameters": {"width": 3, "gone": 1, "_instantiator": "os.system"}}, tmp_path / "b.ckpt"
        )
        with pytest.warns(LeydenWarning):
            assert Silent.load_from_checkpoint(tmp_path / "b.ckpt", strict=False).layer.out_features == 3

    def test_hparams_files(self, tmp_path: Path):
        torch.save({"state_dict": Silent(3).state_dict()}, tmp_path / "a.ckpt")
        (tmp_path / "h.csv").write_text("key,value\nwidth,3\nactivation,tanh\n")
        loaded = Silent.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file=tmp_path / "h.csv")
        assert decode(loaded._init_arguments())["activation"] == "tanh"
        with pytest.raises(InvalidOption, match=r"ends in \.yaml, \.yml or \.csv"):
            Silent.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file="h.txt")
        with pytest.raises(CheckpointMissing, match="no hparams_file at"):
            Silent.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file="none.yaml")
        pytest.importorskip("yaml")
        (tmp_path / "h.yaml").write_text("width: 3\nactivation: tanh\n")
        loaded = Silent.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file=tmp_path / "h.yaml")
        assert decode(loaded._init_arguments())["activation"] == "tanh"
        for text in ("x: !!python/object/apply:os.system [ls]", "- a"):
            (tmp_path / "h.yaml").write_text(text)
            with pytest.raises(CheckpointForeign, match=r"h\.yaml"):
                Silent.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file=tmp_path / "h.yaml")

    @pytest.mark.parametrize("ending", ["yaml", "csv"])
    def test_hparams_files_that_are_none_are_named(self, tmp_path: Path, ending: str):
        torch.save({"state_dict": Silent(3).state_dict()}, tmp_path / "a.ckpt")
        place = tmp_path / f"h.{ending}"
        broken = [b"\xff\xfe\x00a", b"\x00"]
        if ending == "csv":  # a row that is no name with its value would be lost
            broken += [
                b"",
                b"width\n3\n",
                b"key,value\nwidth\n",
                b"key,value\nwidth,3,4\n",
                b'key,value\nwidth,"3',
                b"key,value\ng,[1, 2]",
            ]
        for content in broken:
            place.write_bytes(content)
            with pytest.raises(CheckpointForeign, match=rf"h\.{ending}"):
                Silent.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file=place)
        place.unlink()
        place.mkdir()
        with pytest.raises(CheckpointForeign, match=rf"h\.{ending}"):
            Silent.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file=place)

    def test_yaml_needs_a_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
        (tmp_path / "h.yaml").write_text("width: 3")
        with pytest.raises(MissingPackage, match="pip install pyyaml"):
            Silent.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file=tmp_path / "h.yaml")

    def test_file_objects(self, tmp_path: Path):
        save(Silent(3), tmp_path / "a.ckpt")
        content = (tmp_path / "a.ckpt").read_bytes()
        assert Silent.load_from_checkpoint(io.BytesIO(content)).layer.out_features == 3
        with open(tmp_path / "a.ckpt", "rb") as file:
            assert Silent.load_from_checkpoint(file).layer.out_features == 3
        with pytest.raises(CheckpointDamaged, match="the file object"):
            Silent.load_from_checkpoint(io.BytesIO(content[:100]))
        torch.save({"epoch": 1}, tmp_path / "b.ckpt")
        with pytest.raises(CheckpointForeign, match="no 'state_dict'"):
            Silent.load_from_checkpoint(io.BytesIO((tmp_path / "b.ckpt").read_bytes()))

    def test_map_location(self, tmp_path: Path):
        save(Silent(3), tmp_path / "a.ckpt")
        assert Silent.load_from_checkpoint(tmp_path / "a.ckpt", map_location="cpu").device.type == "cpu"

    def test_a_foreign_file_loads_on_the_callers_word(self, tmp_path: Path):
        torch.save({"state_dict": Silent(3).state_dict(), "hyper_parameters": Namespace(width=3)}, tmp_path / "a.ckpt")
        with pytest.raises(CheckpointForeign, match=r"argparse\.Namespace.*weights_only=False"):
            Silent.load_from_checkpoint(tmp_path / "a.ckpt")
        assert Silent.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=False).layer.out_features == 3


class TestDataModule:
    def test_arguments_and_state_come_back(self, tmp_path: Path):
        class Data(LightningDataModule):
            def __init__(self, folder: Path, batch_size: int = 3) -> None:
                super().__init__()
                self.folder, self.position = folder, 0
                self.save_hyperparameters()

            def load_state_dict(self, state_dict: dict[str, Any]) -> None:
                self.position = state_dict["position"]

        data = Data(Path("x"))
        assert data.hparams == {"folder": Path("x"), "batch_size": 3}
        checkpoint = {
            **dumped(data, "datamodule_"),
            "leyden": {"datamodule_init_arguments": data._init_arguments()},
            Data.__qualname__: {"position": 5},
        }
        TorchCheckpointIO().save_checkpoint(encode(checkpoint), tmp_path / "a.ckpt")
        loaded = Data.load_from_checkpoint(tmp_path / "a.ckpt", batch_size=4)
        assert (loaded.folder, loaded.position, loaded.hparams.batch_size) == (Path("x"), 5, 4)


# -- values at the moment of the call


class Rebound(LightningModule):
    def __init__(self, lr: float | None = None, depth: int = 2) -> None:
        super().__init__()
        lr = lr or 0.5
        width = lr * 2  # no argument
        assert width
        self.save_hyperparameters()


class ReboundByName(LightningModule):
    def __init__(self, lr: float | None = None, depth: int = 2) -> None:
        super().__init__()
        lr = lr or 0.5
        self.save_hyperparameters("lr")


class Popping(LightningModule):
    def __init__(self, **kwargs: Any) -> None:
        self.popped = kwargs.pop("popped")
        super().__init__()
        self.save_hyperparameters()


class ReboundData(LightningDataModule):
    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        size = size or 4
        self.save_hyperparameters()


class SavingBase(LightningModule):
    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()


class SavingMixin:
    def __init__(self, *args: Any, extra: int = 12, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters()  # type: ignore[attr-defined]  # of what it is mixed into


class Mixed(SavingMixin, SavingBase):
    pass


class ReboundTwice(Rebound):
    def __init__(self, depth: int = 1, seed: int | None = None) -> None:
        depth, seed = depth + 1, 7  # noqa: F841  # that it is seen is the point
        super().__init__(depth=depth)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Rebound, {"lr": 0.5, "depth": 2}),
        (ReboundByName, {"lr": 0.5}),
        (lambda: Popping(popped=1, kept=2), {"kept": 2}),
        (ReboundData, {"size": 4}),
        (Mixed, {"batch_size": 64, "extra": 12}),
        (lambda: Mixed(extra=3, batch_size=8), {"batch_size": 8, "extra": 3}),
        (ReboundTwice, {"lr": 0.5, "depth": 2, "seed": 7}),
    ],
)
def test_what_is_saved_is_what_the_arguments_are_at_the_moment_of_the_call(make: Any, expected: dict[str, Any]):
    assert dict(make().hparams) == expected


def test_a_mixins_arguments_are_known_when_the_module_is_made_again(tmp_path: Path):
    save(Mixed(extra=3, batch_size=8), tmp_path / "mixed.ckpt")
    again = Mixed.load_from_checkpoint(tmp_path / "mixed.ckpt")
    assert dict(again.hparams) == {"batch_size": 8, "extra": 3}
    assert "_records" not in vars(SavingMixin.__init__)  # the user's class is as it was
    assert inspect.signature(Mixed) == inspect.signature(SavingMixin)


# -- OmegaConf


class FromConfig(LightningModule):
    def __init__(self, cfg: Any, ignore: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, cfg.width)
        self.save_hyperparameters(cfg, ignore=ignore)


class ConfiguredData(LightningDataModule):
    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.save_hyperparameters(cfg)


class ConfiguredBySetting(LightningModule):
    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.hparams = cfg


@pytest.fixture
def config() -> Any:
    omegaconf = pytest.importorskip("omegaconf")
    made = omegaconf.OmegaConf.create({"width": 2, "twice": "${width}", "optimizer": {"lr": 0.1, "names": ["a"]}, "later": "???"})
    omegaconf.OmegaConf.set_struct(made, True)  # as Hydra does
    return made


@pytest.mark.parametrize("kind", [FromConfig, ConfiguredData, ConfiguredBySetting])
def test_omegaconf_stays_omegaconf(kind: Any, config: Any, tmp_path: Path):
    from omegaconf import DictConfig, OmegaConf

    made = kind(config)
    assert isinstance(made.hparams, DictConfig)
    assert made.hparams == config == made.hparams_initial
    assert made.hparams.twice == 2
    assert made.hparams is not config
    assert OmegaConf.to_yaml(made.hparams) == OmegaConf.to_yaml(config)
    if kind is ConfiguredData:
        return
    save(made, tmp_path / "a.ckpt")
    again = kind.load_from_checkpoint(tmp_path / "a.ckpt")
    assert isinstance(again.hparams, DictConfig)
    assert OmegaConf.to_yaml(again.hparams) == OmegaConf.to_yaml(config)
    again.hparams.width = 5
    assert again.hparams.twice == 5  # an interpolation, and no copied value


def test_omegaconf_through_a_run(config: Any, tmp_path: Path):
    from omegaconf import DictConfig

    class Model(BoringModel):
        def __init__(self, cfg: Any) -> None:
            super().__init__()
            self.save_hyperparameters(cfg)

    config.later = 1
    data = ConfiguredData(config)
    trainer = Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, enable_progress_bar=False)
    data.train_dataloader = BoringModel().train_dataloader  # type: ignore[method-assign]  # the smallest there is
    trainer.fit(Model(config), datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    text = Path(str(trainer.log_dir), "hparams.yaml").read_text()
    assert "twice: 2\n" in text
    assert isinstance(Model.load_from_checkpoint(tmp_path / "a.ckpt").hparams, DictConfig)
    loaded = ConfiguredData.load_from_checkpoint(tmp_path / "a.ckpt")
    assert isinstance(loaded.hparams, DictConfig)
    assert loaded.hparams == config


def test_omegaconf_with_names_left_out_and_with_more(config: Any):
    from omegaconf import DictConfig

    made = FromConfig(config, ignore=["optimizer"])
    assert isinstance(made.hparams, DictConfig)
    assert set(made.hparams.keys()) == {"width", "twice", "later"}
    assert "optimizer" in config
    made.save_hyperparameters({"more": 1})
    assert (made.hparams["width"], made.hparams["more"]) == (2, 1)


def test_nobody_else_imports_omegaconf():
    code = (
        "import sys, leyden, leyden.testing as t; m = t.BoringModel(); m.save_hyperparameters({'a': 1}); "
        "assert 'omegaconf' not in sys.modules"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
