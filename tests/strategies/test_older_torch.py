"""What sharding asks of an older PyTorch in another way: the answers are the same, or an error says what to update."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from leyden.errors import Unsupported
from leyden.strategies import FSDPStrategy, older_torch


@pytest.fixture
def third_of_six() -> Iterator[None]:
    """This process as the third of six, of which there are no others: what exchanges nothing may be asked."""
    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=6)
    yield
    dist.destroy_process_group()


def as_in_torch_2_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(older_torch, "_takes", lambda function, name: False)


@pytest.mark.usefixtures("third_of_six")
@pytest.mark.parametrize("placements", [(Replicate(), Shard(0)), (Shard(1), Shard(0)), (Shard(0), Shard(0))], ids=str)
@pytest.mark.parametrize("rows", [7, 6, 2, 1])
def test_a_shard_is_cut_the_same_where_torch_would_have_it_sent(
    monkeypatch: pytest.MonkeyPatch, placements: tuple[Any, ...], rows: int
) -> None:
    whole = torch.arange(rows * 5.0).view(rows, 5)
    mesh = init_device_mesh("cpu", (2, 3))
    takes = older_torch._takes(distribute_tensor, "src_data_rank")
    here = older_torch.cut(whole, mesh, placements) if takes else None
    as_in_torch_2_6(monkeypatch)
    there = older_torch.cut(whole, mesh, placements)
    assert there.shape == whole.shape
    assert there.stride() == whole.stride()
    assert there.placements == placements
    assert here is None or there.to_local().equal(here.to_local())


def test_what_fsdp_would_not_leave_out_is_refused_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    as_in_torch_2_6(monkeypatch)
    FSDPStrategy()
    for name in ("ignored_params", "ignored_modules", "ignored_states"):
        with pytest.raises(Unsupported, match=rf"need torch 2\.7 or later, and this is {torch.__version__.split('+')[0]}"):
            FSDPStrategy(**{name: [torch.nn.Linear(1, 1)]})


def test_a_unit_keeps_its_parameters_where_it_cannot_be_told_to() -> None:
    group = SimpleNamespace(mesh_info="here", post_forward_mesh_info="here")
    for held in (group, None):  # a unit without parameters of its own has no group
        unit = SimpleNamespace(_get_fsdp_state=lambda held=held: SimpleNamespace(_fsdp_param_group=held))
        for wanted in (False, True):
            older_torch.reshard_after_forward(unit, wanted)
            assert group.post_forward_mesh_info == ("here" if wanted or held is None else None)
