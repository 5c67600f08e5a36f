"""What other processes are handed, in the form in which it is pickled. The meta device stands for none of this process."""

from __future__ import annotations

import pytest
import torch

from leyden.distributed.sharing import on_cpu, packed, unpacked


def test_tensors_of_the_cpu_are_handed_on_as_they_are() -> None:
    tensor = torch.rand(3)
    given = {"a": [tensor, 1], "b": (None, "c")}
    for form in (on_cpu(given), packed(given), unpacked(packed(given))):
        assert form["a"][0] is tensor
        assert form["b"] == (None, "c")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_of_a_device_travel_on_the_cpu() -> None:
    given = {"a": [torch.rand(3, device="cuda", requires_grad=True), torch.rand(3)]}
    sent = on_cpu(given)
    assert {each.device.type for each in sent["a"]} == {"cpu"}
    found = unpacked(packed(given))
    assert [each.device.type for each in found["a"]] == ["cuda", "cpu"]
    assert torch.equal(found["a"][0], given["a"][0].detach())
