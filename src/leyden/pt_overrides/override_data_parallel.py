"""Wrappers of a module for several devices: PyTorch's own, so that ``isinstance`` can be asked."""

from torch.nn import DataParallel as LightningDataParallel
from torch.nn.parallel import DistributedDataParallel as LightningDistributedDataParallel

__all__ = ["LightningDataParallel", "LightningDistributedDataParallel"]
