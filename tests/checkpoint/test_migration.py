"""Checkpoints of older Lightnings come into today's layout, in memory and from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.checkpoint.legacy import progress_of
from leyden.checkpoint.migration import main
from leyden.errors import InvalidOption
from leyden.testing import BoringModel
from leyden.utilities.migration import migrate_checkpoint, pl_legacy_patch
from leyden.version import LIGHTNING


def of_2020() -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 12,
        "state_dict": BoringModel().state_dict(),
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "lr_schedulers": [],
        "checkpoint_callback_best": torch.tensor(0.5),
        "early_stop_callback_wait": 2,
        "hparams": {"width": 3},
        "native_amp_scaling_state": {"scale": 2.0},
    }


def test_a_checkpoint_of_2020() -> None:
    old = of_2020()
    before = progress_of(old)
    migrated, done = migrate_checkpoint(old)
    assert migrated is old
    assert done == {"1.0.0": ["callbacks", "hyper_parameters"], "1.6.0": ["precision"], "2.0.0": ["loops"]}
    assert old["pytorch-lightning_version"] == LIGHTNING
    assert old["legacy_pytorch-lightning_version"] == "0.0.0"
    assert old["hyper_parameters"] == {"width": 3}
    assert old["callbacks"] == {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}, "EarlyStopping": {"wait_count": 2}}
    assert old["MixedPrecision"] == {"scale": 2.0}
    assert {"hparams", "native_amp_scaling_state", "early_stop_callback_wait"}.isdisjoint(old)
    after = progress_of(old)
    assert [after[name] for name in ("epoch", "batch", "step")] == [before[name] for name in ("epoch", "batch", "step")]
    assert migrate_checkpoint(old)[1] == {}


def test_up_to_a_version() -> None:
    old = of_2020()
    assert list(migrate_checkpoint(old, "1.6.0")[1]) == ["1.0.0", "1.6.0"]
    assert (old["pytorch-lightning_version"], "loops" in old) == ("1.6.0", False)
    with pytest.raises(InvalidOption, match="target_version='new'"):
        migrate_checkpoint(old, "new")
    spaces = {"state_dict": {}, "hparams": argparse.Namespace(a=1)}
    assert migrate_checkpoint(spaces)[1] == {"1.0.0": ["hyper_parameters"]}
    assert spaces["hyper_parameters"] == {"a": 1}


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "below").mkdir()
    old, other = tmp_path / "old.ckpt", tmp_path / "below" / "other.ckpt"
    for path in (old, other):
        torch.save(of_2020(), path)
    (tmp_path / "broken.ckpt").write_bytes(b"nothing")
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert f"{old}: upgraded (callbacks, hyper_parameters, precision, loops); the original is {tmp_path / 'old.bak'}" in said.out
    assert str(tmp_path / "broken.ckpt") in said.err
    assert torch.load(tmp_path / "below" / "other.bak", weights_only=True).keys() == of_2020().keys()
    assert torch.load(other, weights_only=True)["hyper_parameters"] == {"width": 3}
    assert main([str(old)]) == 0
    assert capsys.readouterr().out == f"{old}: is up to date\n"
    assert main([str(old), "--map-to-cpu"]) == 1
    assert "its backup would replace" in capsys.readouterr().err
    (tmp_path / "old.bak").unlink()
    assert main([str(old), "--map-to-cpu"]) == 0
    assert "upgraded (tensors on the CPU)" in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 1
    assert main([str(tmp_path), "-e", ".pt"]) == 1
    assert "no file whose name ends with .pt" in capsys.readouterr().err


def test_old_files_find_what_they_name() -> None:
    before = set(sys.modules)
    with pl_legacy_patch():
        from pytorch_lightning.utilities.argparse_utils import _gpus_arg_default  # type: ignore[import-untyped,unused-ignore]

        assert _gpus_arg_default(3) == 3
    assert not any(name.startswith("pytorch_lightning") for name in set(sys.modules) - before)
