"""File names from metrics."""

from __future__ import annotations

import pytest
import torch

from leyden.checkpoint.naming import format_name
from leyden.errors import InvalidOption

METRICS = {"epoch": torch.tensor(3), "step": 10, "val/loss": torch.tensor(0.123), "val_loss": 0.5, "n": torch.tensor(3)}


@pytest.mark.parametrize(
    ("template", "auto", "expected"),
    [  # as Lightning 2.6.6 names them, but for `{val/loss}`, which makes a folder there
        (None, True, "epoch=3-step=10"),
        ("{epoch}-{val_loss:.2f}", True, "epoch=3-val_loss=0.50"),
        ("{epoch}-{val_loss:.2f}", False, "3-0.50"),
        ("{val/loss:.2f}", True, "val_loss=0.12"),
        ("{val/loss:.2f}", False, "0.12"),
        ("x/{epoch}", True, "x/epoch=3"),
        ("{missing:.3f}-{epoch:02d}", True, "missing=0.000-epoch=03"),
        ("{missing}", False, "0"),
        ("{epoch:02d}{val_loss}", True, "epoch=03val_loss=0.5"),
        ("plain", True, "plain"),
        ("{n}", True, "n=3"),
        ("loss={val_loss:.1f}", True, "loss=val_loss=0.5"),
        ("loss={val/loss:.1f}", False, "loss=0.1"),
        ("{epoch:03d}-{epoch}", True, "epoch=003-epoch=3"),
        ("", True, ""),
    ],
)
def test_names(template: str | None, auto: bool, expected: str):
    assert format_name(template, METRICS, auto_insert_metric_name=auto) == f"{expected}.ckpt"
    assert format_name(template, METRICS, auto_insert_metric_name=auto, version=2) == f"{expected}-v2.ckpt"


def test_a_format_for_whole_numbers_takes_a_float_that_is_one():
    assert format_name("{x:03d}", {"x": 7.0}) == "x=007.ckpt"


def test_prefix_and_extension():
    assert format_name("{epoch}", METRICS, prefix="run", extension=".pt") == "run-epoch=3.pt"


def test_a_format_that_does_not_fit_says_so():
    with pytest.raises(InvalidOption, match=r"filename='\{epoch:zz\}' cannot be used: expected a format that fits epoch=3"):
        format_name("{epoch:zz}", METRICS)


def test_other_signs_between_names_and_values():
    assert format_name(None, METRICS, join="_", equals=":") == "epoch:3_step:10.ckpt"
    assert format_name("{epoch}", METRICS, prefix="run", version=2, join="_") == "run_epoch=3_v2.ckpt"
