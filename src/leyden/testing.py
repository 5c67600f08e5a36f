"""Small real things for tests, yours and ours: BoringModel, random data, a callback that records what happens."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.hooks import HOOK_NAMES
from leyden.module import LightningModule
from leyden.not_offered import absent


class RandomDataset(Dataset[Tensor]):
    """``length`` random vectors of ``size`` numbers, drawn when it is made."""

    def __init__(self, size: int, length: int) -> None:
        self.len = length
        self.data = torch.randn(length, size)

    def __getitem__(self, index: int) -> Tensor:
        return self.data[index]

    def __len__(self) -> int:
        return self.len


class RandomDictDataset(Dataset[dict[str, Tensor]]):
    """As :class:`RandomDataset`, with samples ``{"a": vector, "b": vector}``."""

    def __init__(self, size: int, length: int) -> None:
        self.len = length
        self.data = torch.randn(length, size)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"a": self.data[index], "b": self.data[index] + 2}

    def __len__(self) -> int:
        return self.len


class RandomIterableDataset(IterableDataset[Tensor]):
    """``count`` random vectors, drawn as they are read, without a length."""

    def __init__(self, size: int, count: int) -> None:
        self.size = size
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.count):
            yield torch.randn(self.size)


class RandomIterableDatasetWithLen(RandomIterableDataset):
    """As :class:`RandomIterableDataset`, with a length."""

    def __len__(self) -> int:
        return self.count


class BoringModel(LightningModule):
    """One linear layer that learns to answer with ones: the smallest module with every step and loader."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, of shape ``(batch, 2)``."""
        out: Tensor = self.layer(x)
        return out

    def loss(self, preds: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean squared distance to ``labels``, or to ones."""
        if labels is None:
            labels = torch.ones_like(preds)
        return nn.functional.mse_loss(preds, labels)

    def step(self, batch: Any) -> Tensor:
        """The loss of a batch."""
        return self.loss(self(batch))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Returns ``{"loss": loss}``."""
        return {"loss": self.step(batch)}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Returns ``{"x": loss}``."""
        return {"x": self.step(batch)}

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Returns ``{"y": loss}``."""
        return {"y": self.step(batch)}

    def configure_optimizers(self) -> Any:
        """SGD with a learning rate of 0.1, lowered by a tenth each epoch."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)]

    def train_dataloader(self) -> Any:
        """64 random batches of one."""
        return DataLoader(RandomDataset(32, 64))

    def val_dataloader(self) -> Any:
        """64 random batches of one."""
        return DataLoader(RandomDataset(32, 64))

    def test_dataloader(self) -> Any:
        """64 random batches of one."""
        return DataLoader(RandomDataset(32, 64))

    def predict_dataloader(self) -> Any:
        """64 random batches of one."""
        return DataLoader(RandomDataset(32, 64))


class ManualOptimBoringModel(BoringModel):
    """BoringModel with manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Backward and step by hand."""
        optimizer = self.optimizers()
        loss = self.step(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


class DemoModel(LightningModule):
    """One linear layer and a rectifier, trained to make their sum small: the module of Lightning's pages on the command line.

    Args:
        out_dim: numbers in an output.
        learning_rate: Adam's.
    """

    def __init__(self, out_dim: int = 10, learning_rate: float = 0.02) -> None:
        super().__init__()
        self.l1 = nn.Linear(32, out_dim)
        self.learning_rate = learning_rate

    def forward(self, x: Tensor) -> Tensor:
        """Of samples of 32 numbers, outputs of shape ``(batch, out_dim)``."""
        return nn.functional.relu(self.l1(x.flatten(1)))

    def training_step(self, batch: Any, batch_nb: int) -> Any:
        """The sum of the outputs."""
        return self(batch).sum()

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class _RandomLoaders(LightningDataModule):
    """A loader for each stage, of the data that ``setup`` has made."""

    random_train: Dataset[Tensor]
    random_val: Dataset[Tensor]
    random_test: Dataset[Tensor]
    random_predict: Dataset[Tensor]

    def train_dataloader(self) -> Any:
        """Batches of one."""
        return DataLoader(self.random_train)

    def val_dataloader(self) -> Any:
        """Batches of one."""
        return DataLoader(self.random_val)

    def test_dataloader(self) -> Any:
        """Batches of one."""
        return DataLoader(self.random_test)

    def predict_dataloader(self) -> Any:
        """Batches of one."""
        return DataLoader(self.random_predict)


class BoringDataModule(_RandomLoaders):
    """Loaders of 64 random vectors of 32 numbers for every stage."""

    def __init__(self) -> None:
        super().__init__()
        self.random_full: Dataset[Tensor] | None = None

    def prepare_data(self) -> None:
        """Draw the data."""
        self.random_full = RandomDataset(32, 64 * 4)

    def setup(self, stage: str) -> None:
        """Split it into four parts of 64."""
        if self.random_full is None:
            self.random_full = RandomDataset(32, 64 * 4)
        parts = [torch.utils.data.Subset(self.random_full, range(i * 64, (i + 1) * 64)) for i in range(4)]
        self.random_train, self.random_val, self.random_test, self.random_predict = parts


class BoringDataModuleNoLen(_RandomLoaders):
    """Loaders of random vectors of 32 numbers that do not tell their length: 512 for training, 128, 256 and 64 for the others."""

    def setup(self, stage: str) -> None:
        """Make the data of the verb."""
        if stage == "fit":
            self.random_train = RandomIterableDataset(32, 512)
        if stage in ("fit", "validate"):
            self.random_val = RandomIterableDataset(32, 128)
        elif stage == "test":
            self.random_test = RandomIterableDataset(32, 256)
        elif stage == "predict":
            self.random_predict = RandomIterableDataset(32, 64)


class IterableBoringDataModule(LightningDataModule):
    """Two loaders of random vectors of 4 numbers for every stage, of which the second does not tell its length."""

    def setup(self, stage: str) -> None:
        """Make the data of the verb: 16 vectors for training, 32, 64 and 128 for the others."""
        if stage == "fit":
            self.train_datasets = self._both(16)
        if stage in ("fit", "validate"):
            self.val_datasets = self._both(32)
        elif stage == "test":
            self.test_datasets = self._both(64)
        elif stage == "predict":
            self.predict_datasets = self._both(128)

    def _both(self, length: int) -> list[Dataset[Tensor]]:
        return [RandomDataset(4, length), RandomIterableDataset(4, length)]

    def train_dataloader(self) -> Any:
        """Two loaders of batches of one."""
        return [DataLoader(each) for each in self.train_datasets]

    def val_dataloader(self) -> Any:
        """Two loaders of batches of one."""
        return [DataLoader(each) for each in self.val_datasets]

    def test_dataloader(self) -> Any:
        """Two loaders of batches of one."""
        return [DataLoader(each) for each in self.test_datasets]

    def predict_dataloader(self) -> Any:
        """Two loaders of batches of one."""
        return [DataLoader(each) for each in self.predict_datasets]


def random_batches(batches: int, batch_size: int = 1, size: int = 32) -> DataLoader[Tensor]:
    """A loader of so many batches of random vectors."""
    return DataLoader(RandomDataset(size, batches * batch_size), batch_size=batch_size)


class Recorder(Callback):
    """Records the names of all hooks that fire, in order, and runs the functions given for some.

    ``Recorder(on_train_batch_end=lambda trainer, *_: trainer.stop())``; the names are in :attr:`names`.
    """

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        self.names: list[str] = []
        self.hooks = hooks
        for name in HOOK_NAMES:
            if name not in ("state_dict", "load_state_dict"):
                setattr(self, name, self._recording(name))

    def _recording(self, name: str) -> Callable[..., Any]:
        def hook(*arguments: Any, **keywords: Any) -> Any:
            self.names.append(name)
            then = self.hooks.get(name)
            return then(*arguments, **keywords) if then is not None else None

        return hook


def __getattr__(name: str) -> Any:
    return absent(__name__, name, [name for name in globals() if not name.startswith("_")])
