"""From the Trainer's keywords to a strategy: every name, every plug-in, every conflict."""

from __future__ import annotations

import sys
from typing import Any

import kit
import pytest
import torch

from leyden.checkpoint.files import TorchCheckpointIO
from leyden.devices.accelerators import CPUAccelerator
from leyden.errors import ConflictingOptions, DeviceUnavailable, InvalidOption, InvalidType, UnknownName, Unsupported
from leyden.plugins import FSDPPrecision, LightningEnvironment, MixedPrecision
from leyden.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from leyden.strategies.choose import choose_strategy

LAUNCHES = ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")
OF_DDP = [
    *LAUNCHES,
    *(f"{launch}_find_unused_parameters_{found}" for launch in LAUNCHES for found in ("true", "false")),
    "DDP",
]
REFUSED = [
    "dp",
    "ddp2",
    "deepspeed",
    "deepspeed_stage_1",
    "deepspeed_stage_2",
    "deepspeed_stage_2_offload",
    "deepspeed_stage_3",
    "deepspeed_stage_3_offload",
    "deepspeed_stage_3_offload_nvme",
    "single_xla",
    "single_tpu",
    "xla",
    "xla_debug",
]


@pytest.mark.parametrize("strategy", ["auto", "single_device", None])
def test_one_device(strategy: Any) -> None:
    chosen = choose_strategy(strategy, accelerator="cpu", devices=1)
    assert isinstance(chosen, SingleDeviceStrategy)
    assert chosen.root_device == torch.device("cpu")
    assert chosen.precision.name == "32-true"


def test_no_argument_at_all_works_on_any_machine() -> None:
    assert choose_strategy().num_devices == 1


@pytest.mark.parametrize("precision", [16, "bf16-true", 64, "bf16"])
def test_the_precision_asked_for(precision: Any) -> None:
    expected = {16: "16-mixed", "bf16-true": "bf16-true", 64: "64-true", "bf16": "bf16-mixed"}[precision]
    assert choose_strategy(accelerator="cpu", precision=precision).precision.name == expected


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(Unsupported, match=f"strategy='{name}' is not offered.*Use strategy='auto' with devices=1"):
        choose_strategy(name)


def test_unknown_names() -> None:
    with pytest.raises(
        InvalidOption, match=r"strategy='single_devices' .*one of 'auto', 'single_device'.*Did you mean 'single_device'\?"
    ):
        choose_strategy("single_devices")
    with pytest.raises(InvalidType, match="strategy=3"):
        choose_strategy(3)  # type: ignore[arg-type]  # the mistake under test


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="accelerator='gpu' asks for a GPU"):
        choose_strategy(accelerator="gpu")


@pytest.mark.parametrize("options", [{"devices": 2}])
def test_several_processes(options: dict[str, Any]) -> None:
    chosen = choose_strategy(accelerator="cpu", **options)
    assert isinstance(chosen, DDPStrategy)
    assert (chosen.world_size, chosen.global_rank, chosen.root_device) == (2, 0, torch.device("cpu"))


@pytest.mark.parametrize("name", OF_DDP)
def test_names_of_ddp(name: str) -> None:
    chosen = choose_strategy(name, accelerator="cpu", devices=2)
    assert isinstance(chosen, DDPStrategy)
    assert chosen.world_size == 2


def test_plug_ins_find_their_place() -> None:
    rules, storage = MixedPrecision("bf16-mixed", "cpu"), TorchCheckpointIO()
    chosen = choose_strategy(accelerator="cpu", plugins=[rules, storage, LightningEnvironment()])
    assert chosen.precision is rules
    assert chosen.checkpoint_io is storage
    assert choose_strategy(accelerator="cpu", plugins=rules).precision is rules


def test_the_list_of_plug_ins_is_not_changed() -> None:
    plugins = [MixedPrecision("bf16-mixed", "cpu")]
    choose_strategy(accelerator="cpu", plugins=plugins)
    assert len(plugins) == 1


@pytest.mark.parametrize("plugins", [3, ["16-mixed"], "16-mixed", [None]])
def test_what_is_no_plug_in(plugins: Any) -> None:
    with pytest.raises(InvalidType, match="expected a Precision, a CheckpointIO, a ClusterEnvironment or a LayerSync"):
        choose_strategy(plugins=plugins)


def test_a_class_is_no_plug_in() -> None:
    with pytest.raises(InvalidType, match=r"Pass an instance: TorchCheckpointIO\(\.\.\.\)"):
        choose_strategy(plugins=[TorchCheckpointIO])


def test_two_plug_ins_of_a_kind() -> None:
    with pytest.raises(ConflictingOptions, match="plugins has 2 of the kind CheckpointIO"):
        choose_strategy(plugins=[TorchCheckpointIO(), TorchCheckpointIO()])


def test_two_precisions() -> None:
    with pytest.raises(ConflictingOptions, match=r"precision=16 and plugins=MixedPrecision\('16-mixed'\) were both given"):
        choose_strategy(precision=16, plugins=[MixedPrecision("16-mixed", "cpu")])


def test_a_strategy_object_is_completed() -> None:
    mine, storage = SingleDeviceStrategy("cpu"), TorchCheckpointIO()
    assert choose_strategy(mine, accelerator="cpu", devices=1, precision="bf16-mixed", plugins=[storage]) is mine
    assert mine.precision.name == "bf16-mixed"
    assert mine.checkpoint_io is storage


def test_a_strategy_object_with_a_precision_of_its_own() -> None:
    mine = SingleDeviceStrategy("cpu", precision=MixedPrecision("bf16-mixed", "cpu"))
    assert choose_strategy(mine).precision.name == "bf16-mixed"
    with pytest.raises(ConflictingOptions, match="already brings MixedPrecision"):
        choose_strategy(mine, precision=64)


def test_a_strategy_object_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    mine = SingleDeviceStrategy("cuda:1")
    assert choose_strategy(mine, accelerator="gpu", devices=1) is mine
    assert choose_strategy(mine, devices=[1]) is mine
    with pytest.raises(
        ConflictingOptions, match=r"accelerator='cpu', devices='auto' asks for 'cpu', but .* already brings 'cuda:1'"
    ):
        choose_strategy(mine, accelerator="cpu")
    with pytest.raises(ConflictingOptions, match=r"devices=\[2\] asks for 'cuda:2'"):
        choose_strategy(mine, devices=[2])


def test_a_strategy_object_with_another_accelerator() -> None:
    mine = SingleDeviceStrategy("cpu")
    with pytest.raises(ConflictingOptions, match=r"accelerator=CPUAccelerator\(\) was asked for"):
        choose_strategy(mine, accelerator=CPUAccelerator())


def test_a_strategy_object_serves_one_trainer_after_another() -> None:
    mine = DDPStrategy()
    asked: list[tuple[int, Any]] = [(2, "bf16-mixed"), (3, None), (1, "64-true")]
    for devices, precision in asked:
        assert choose_strategy(mine, accelerator="cpu", devices=devices, precision=precision) is mine
        assert (mine.world_size, len(mine.parallel_devices)) == (devices, devices)
        assert mine.precision.precision == (precision or "32-true")
    kept = FSDPStrategy(precision_plugin=FSDPPrecision("bf16-true"), state_dict_type="sharded")
    for _ in range(2):
        assert choose_strategy(kept, accelerator="cpu", devices=2).precision.precision == "bf16-true"
        assert kept.checkpoint_io.leyden_sharded
    kept.precision_plugin = FSDPPrecision("32-true")
    with pytest.raises(ConflictingOptions, match="already brings FSDPPrecision"):
        choose_strategy(kept, accelerator="cpu", devices=2, precision="bf16-mixed")


def test_devices_that_a_strategy_object_brings() -> None:
    mine = DDPStrategy(parallel_devices=[torch.device("cpu")] * 2)
    assert choose_strategy(mine, accelerator="cpu", devices=2).world_size == 2
    assert choose_strategy(mine, accelerator="cpu").world_size == 2
    with pytest.raises(ConflictingOptions, match=r"devices=3 asks for 3 devices, .* already brings 2 \(parallel_devices\)"):
        choose_strategy(mine, accelerator="cpu", devices=3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"find_unused_parameters": "yes"}, InvalidType, "expected True or False"),
        ({"static_graph": 1}, InvalidType, "expected True or False"),
        ({"bucket_cap_mb": 0}, InvalidOption, "expected megabytes > 0"),
        ({"device_ids": [0]}, UnknownName, "unknown argument 'device_ids'"),
        ({"dim": "0"}, InvalidType, "expected a number"),
        ({"output_device": "nowhere"}, InvalidType, "expected a device"),
        ({"process_group": "world"}, InvalidType, r"expected a torch\.distributed\.ProcessGroup"),
        ({"device_mesh": [2]}, InvalidType, "expected a DeviceMesh"),
        ({"mixed_precision": "bf16"}, InvalidType, "expected .*_MixedPrecision"),
        ({"bucket_cap_mb_list": [1, 0]}, InvalidOption, "expected a list of megabytes"),
        ({"forward_sync_buffers": "no"}, InvalidType, "expected True, False or None"),
        ({"param_to_hook_all_reduce": 3}, InvalidType, "expected a parameter"),
        ({"delay_all_reduce_named_params": ["l.weight"]}, InvalidType, "expected a list of names with parameters"),
    ],
)
def test_options_of_ddp_that_make_no_sense(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        DDPStrategy(**options)
    assert DDPStrategy(find_unused_parameters=True, static_graph=False, bucket_cap_mb=0.5, broadcast_buffers=False, dim=1)


def test_names_that_strategies_give_themselves() -> None:
    assert [kind.strategy_name for kind in (SingleDeviceStrategy, DDPStrategy, FSDPStrategy)] == ["single_device", "ddp", "fsdp"]
    assert FSDPStrategy.get_registered_strategies() == ["fsdp", "fsdp_cpu_offload"]
    assert kit.trainer(devices=3).device_ids == [0, 1, 2]


@pytest.mark.parametrize("name", ["ddp", "fsdp", "ddp_spawn"])
@pytest.mark.parametrize("devices", [1, 2])
def test_before_the_others_have_begun_a_process_is_by_itself(name: str, devices: int) -> None:
    strategy = choose_strategy(name, accelerator="cpu", devices=devices)
    strategy.barrier("here")
    assert strategy.broadcast({"a": 1}, src=0) == {"a": 1}
    assert strategy.all_gather(torch.ones(2)).tolist() == strategy.reduce(torch.ones(2), reduce_op="mean").tolist() == [1, 1]
    assert strategy.reduce_boolean_decision(True)


def test_where_there_is_no_script_processes_are_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(kit.trainer(devices=2).strategy.leyden_launcher()).__name__ == "Script"
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)  # an interactive session
    assert kit.trainer(devices=2).strategy.leyden_launcher().start_method == "fork"


def doubled(number: int) -> int:
    return 2 * number


def test_what_starts_the_processes_runs_functions_too() -> None:
    assert kit.trainer().strategy.launcher is None
    started = {name: kit.trainer(devices=2, strategy=name).strategy.launcher for name in ("ddp", "fsdp", "ddp_spawn", "ddp_fork")}
    assert [each.is_interactive_compatible for each in started.values()] == [False, False, False, True]
    launcher = started["ddp_fork"]
    assert (launcher.num_processes, launcher.num_nodes, launcher.procs) == (2, 1, [])
    assert launcher.launch(doubled, 3) == 6
    launcher.kill(9)  # none is left
