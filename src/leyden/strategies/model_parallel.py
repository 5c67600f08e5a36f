"""A mesh of data and tensor parallel processes, over which the module parallelises itself in ``configure_model``."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from leyden.data.share import Share
from leyden.distributed.peers import Peers, same_random_state
from leyden.distributed.processes import Alone, Processes
from leyden.errors import ConflictingOptions, InvalidOption, MisconfigurationException
from leyden.not_offered import absent
from leyden.spelling import exact_arguments
from leyden.strategies.sharded import ShardedStrategy
from leyden.strategies.shards import is_sharded

__all__ = ["ModelParallelStrategy"]
_UNAVERAGED = (
    "{} would get other gradients in each of the {} data parallel groups, and nothing averages them. Call fully_shard(self, "
    "mesh=self.device_mesh['data_parallel']) {}."
)


@exact_arguments
class ModelParallelStrategy(ShardedStrategy):
    """The processes as a mesh of two dimensions, ``"data_parallel"`` and ``"tensor_parallel"``, which the module finds at
    ``self.device_mesh`` in ``configure_model`` and parallelises itself over: ``parallelize_module(self.block,
    self.device_mesh["tensor_parallel"], plan)``, then ``fully_shard(self.block, mesh=self.device_mesh["data_parallel"])``.

    The processes of one tensor parallel group get the same batches, and their values count once.

    Args:
        data_parallel_size: processes that share the samples out; ``"auto"`` for the number of machines.
        tensor_parallel_size: processes that share a layer; ``"auto"`` for the devices of a machine.
        save_distributed_checkpoint: write a checkpoint as a folder, into which each process writes its shards; otherwise as one
            file of whole tensors. Each goes on with any sizes, and under any strategy.
        process_group_backend: of :func:`torch.distributed.init_process_group`.
        timeout: after so long without an answer an exchange fails.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        tensor_parallel_size: Literal["auto"] | int = "auto",
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = timedelta(seconds=1800),  # it cannot be changed
    ) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        for name, size in (("data_parallel_size", data_parallel_size), ("tensor_parallel_size", tensor_parallel_size)):
            if size != "auto" and (type(size) is not int or size < 1):
                raise InvalidOption(name, size, "a number of processes >= 1, or 'auto'")
        self._asked = data_parallel_size, tensor_parallel_size
        self._sizes = (1, 1)
        self._save_distributed_checkpoint = save_distributed_checkpoint

    def leyden_assemble(self, *args: Any, **kwargs: Any) -> None:
        super().leyden_assemble(*args, **kwargs)
        data, tensor = self._asked
        data = self.num_nodes if data == "auto" else data
        tensor = self.num_devices if tensor == "auto" else tensor
        if data * tensor != self.world_size:
            raise ConflictingOptions(
                f"data_parallel_size={data} x tensor_parallel_size={tensor} are {data * tensor} processes, and the Trainer asks "
                f"for {self.world_size} (devices x num_nodes). Let both say the same number."
            )
        self._sizes = data, tensor
        if self._save_distributed_checkpoint:
            self.leyden_write_shards()

    def leyden_make_mesh(self) -> DeviceMesh:
        return init_device_mesh(self._device.type, self._sizes, mesh_dim_names=("data_parallel", "tensor_parallel"))

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        """Whose samples are whose: those of one tensor parallel group have the same."""
        return {"num_replicas": self._sizes[0], "rank": self.global_rank // self._sizes[1]}

    @property
    def leyden_peers(self) -> Processes:
        told = self.distributed_sampler_kwargs
        if told["num_replicas"] == 1:
            return Alone()
        return Peers(self.processes, told["rank"], told["num_replicas"], lambda: self._group("data_parallel"))

    @property
    def leyden_share(self) -> Share:
        return replace(super().leyden_share, processes=self.leyden_peers)

    def _group(self, name: str) -> Any:
        assert self._mesh is not None
        return self._mesh.get_group(name)

    def leyden_divide(self, module: nn.Module) -> None:
        data, tensor = self._sizes
        if tensor > 1:
            same_random_state(self._group("tensor_parallel"), self._device)
        for name, parameter in module.named_parameters():
            if data > 1 and parameter.requires_grad and (not is_sharded(parameter) or self._is_within(parameter)):
                raise MisconfigurationException(_UNAVERAGED.format(name, data, "at the end of configure_model"))

    def _is_within(self, parameter: Any) -> bool:
        """Whether the shards of ``parameter`` are those of one data parallel group."""
        tensor = self._sizes[1]
        mine = {self.global_rank // tensor * tensor + place for place in range(tensor)}
        return set(parameter.device_mesh.mesh.flatten().tolist()) <= mine

    def leyden_unowned(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        if self._sizes[0] == 1:
            return []  # one data parallel group computes the same
        within = next((each for each in parameters if each.requires_grad and is_sharded(each) and self._is_within(each)), None)
        if within is not None:
            what = f"A parameter of {list(within.shape)} that an optimizer was given"
            raise MisconfigurationException(_UNAVERAGED.format(what, self._sizes[0], "on the new layer"))
        return super().leyden_unowned(parameters)


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.strategies")
