"""A GPT that learns to write Python, byte by byte, from the source text of the standard library: real text on every machine.

    python examples/gpt.py                                 # trains, and writes 400 bytes
    python examples/gpt.py                                 # rerun it, or kill it before: it goes on where it was
    python examples/gpt.py --precision bf16-mixed --compile     # on a GPU
    python examples/gpt.py --devices 2                          # two processes, which share the text
    python examples/gpt.py --devices 2 --strategy fsdp          # and the parameters
    python examples/gpt.py --sample_only --prompt "class "      # writes, from the best checkpoint

`--max_steps 6 --layers 1 --width 32 --context 32 --val_every 3` is a short form. The model is GPT-2's: embeddings of bytes and
places, blocks of causal attention and a perceptron behind layer norms, and the embedding of bytes once more as the last layer.
"""

from __future__ import annotations

import argparse
import math
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden.callbacks import LearningRateMonitor, ModelCheckpoint
from leyden.loggers import CSVLogger
from leyden.plugins import ShardedCheckpointIO

BYTES = 256
FOLDER = Path("leyden_logs", "gpt")


# The text


def standard_library(most: int) -> tuple[Tensor, Tensor]:
    """The source text of Python's standard library, at most ``most`` bytes of it: what to train on, and what to validate with.

    Every tenth file of the alphabet is for validation, so both hold all kinds of code.
    """
    train, val, size = bytearray(), bytearray(), 0
    for number, path in enumerate(sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))):
        text = path.read_bytes()[: most - size]
        (val if number % 10 == 9 else train).extend(text)
        size += len(text)
        if size >= most:
            break
    return torch.frombuffer(train, dtype=torch.uint8), torch.frombuffer(val or train[-4096:], dtype=torch.uint8)


class Text(pl.LightningDataModule):
    """Batches of windows, (batch, context + 1) bytes: all but the last are read, all but the first are to be foretold."""

    def __init__(self, context: int = 128, batch_size: int = 32, most: int = 8_000_000) -> None:
        super().__init__()
        self.context, self.batch_size, self.most = context, batch_size, most

    def setup(self, stage: str) -> None:
        texts = standard_library(self.most)
        self.train, self.val = (TensorDataset(text.unfold(0, self.context + 1, self.context)) for text in texts)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, pin_memory=torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, self.batch_size, drop_last=True)


# The model


@dataclass
class Shape:
    """How large a GPT is."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 128
    dropout: float = 0.0


class Block(nn.Module):
    """Attention to what came before, then a perceptron at each place; both add to what they get, (batch, time, width)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.mlp = nn.Sequential(
            nn.Linear(shape.width, 4 * shape.width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * shape.width, shape.width),
            nn.Dropout(shape.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def attention(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = (each.view(batch, time, self.heads, -1).transpose(1, 2) for each in self.qkv(x).split(width, dim=2))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        return F.dropout(self.out(y.transpose(1, 2).reshape(batch, time, width)), dropout)


class Transformer(nn.Module):
    """Bytes (batch, time), at most ``context`` of them, to logits of the byte that follows each, (batch, time, 256)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.bytes = nn.Embedding(BYTES, shape.width)
        self.places = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, BYTES, bias=False)
        self.head.weight = self.bytes.weight  # tied
        self.apply(self._begin)
        for block in self.blocks:  # what is added to the residual stream is smaller, the more layers add to it
            for last in (block.out, block.mlp[2]):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * shape.layers))

    @staticmethod
    def _begin(part: nn.Module) -> None:
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)

    def forward(self, text: Tensor) -> Tensor:
        x = self.bytes(text) + self.places(torch.arange(text.shape[1], device=text.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def flops_per_token(self, context: int) -> int:
        """Of one training step: 6 for each weight that multiplies, and 12 for each place that each place attends to."""
        weights = sum(p.numel() for p in self.parameters()) - self.places.weight.numel()
        width = self.places.embedding_dim
        return 6 * weights + 12 * len(self.blocks) * width * context


def loss_of(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """The mean cross-entropy of the bytes that follow, in nats."""
    windows = batch[0].long()
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def optimizer_of(model: nn.Module, learning_rate: float, fused: bool) -> torch.optim.Optimizer:
    """AdamW, whose weight decay leaves norms and biases alone."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=fused)


class GPT(pl.LightningModule):
    """Trains a :class:`Transformer`: a linear warm-up, then half a cosine down to a tenth of the learning rate."""

    def __init__(
        self, shape: dict[str, Any] | None = None, learning_rate: float = 1e-3, warmup: int = 100, steps: int = 2000
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.shape = Shape(**(shape or {}))
        self.model = Transformer(self.shape)
        self.learning_rate, self.warmup, self.steps = learning_rate, warmup, steps
        self.example_input_array = torch.zeros(1, self.shape.context, dtype=torch.long)

    def forward(self, text: Tensor) -> Tensor:
        return self.model(text)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = loss_of(self.model, batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", loss_of(self.model, batch), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.model, self.learning_rate, fused=self.device.type == "cuda")
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.share_of_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def share_of_rate(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    @torch.inference_mode()
    def write(self, prompt: bytes, count: int, temperature: float = 0.8, seed: int = 0) -> bytes:
        """``prompt`` and ``count`` bytes more, each drawn from what the model expects."""
        self.eval()
        generator = torch.Generator(self.device).manual_seed(seed)
        text = torch.tensor([list(prompt)], device=self.device)
        for _ in range(count):
            logits = self.model(text[:, -self.shape.context :])[:, -1] / temperature
            text = torch.cat([text, torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)], dim=1)
        return bytes(text[0].tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    shape = Shape()
    for name, value in asdict(shape).items():
        add(f"--{name}", type=type(value), default=value)
    add("--batch_size", type=int, default=32)
    add("--learning_rate", type=float, default=1e-3)
    add("--max_steps", type=int, default=2000)
    add("--most", type=int, default=8_000_000, help="bytes of text, at most")
    add("--val_every", type=int, default=200, help="steps between validations, after each of which a checkpoint is saved")
    add("--precision", default="32-true", help="bf16-mixed where the device has it")
    add("--devices", default="auto", help="how many processes of this machine train")
    add("--num_nodes", type=int, default=1, help="how many machines; each runs the same command, from SLURM or torchrun")
    add("--strategy", default="auto", help="how several processes share the work: ddp, or fsdp where the model is large")
    add("--sharded", action="store_true", help="checkpoints are folders, into which every process writes its part")
    add("--compile", action="store_true", help="train the model as torch.compile makes it")
    add("--sample_only", action="store_true", help="train nothing: write, from the best checkpoint")
    add("--prompt", default="def ")
    add("--count", type=int, default=400, help="bytes to write")
    asked = parser.parse_args()

    checkpoints = ModelCheckpoint(FOLDER / "checkpoints", monitor="val_loss", save_last=True)
    if asked.sample_only:
        found = sorted(FOLDER.glob("checkpoints/epoch*.ckpt"))
        if not found:
            parser.error(f"there is no checkpoint in {FOLDER / 'checkpoints'}: train first")
        best = found[-1]
    else:
        pl.seed_everything(0)
        given = Shape(asked.layers, asked.heads, asked.width, asked.context, asked.dropout)
        module = GPT(asdict(given), asked.learning_rate, warmup=max(1, asked.max_steps // 20), steps=asked.max_steps)
        data = Text(asked.context, asked.batch_size, asked.most)
        trainer = pl.Trainer(
            max_steps=asked.max_steps,
            precision=asked.precision,
            devices=asked.devices,
            num_nodes=asked.num_nodes,
            strategy=asked.strategy,
            plugins=ShardedCheckpointIO() if asked.sharded else None,
            gradient_clip_val=1.0,
            val_check_interval=min(asked.val_every, asked.max_steps),
            check_val_every_n_epoch=None,  # validations count steps, over the ends of epochs
            limit_val_batches=50,
            log_every_n_steps=10,
            logger=CSVLogger(FOLDER.parent, name=FOLDER.name, version="logs"),
            callbacks=[checkpoints, LearningRateMonitor()],
        )
        trainer.fit(torch.compile(module) if asked.compile else module, datamodule=data, ckpt_path="last")
        if not trainer.is_global_zero:
            return  # every process has come this far, and one speaks for all
        best = Path(checkpoints.best_model_path or checkpoints.last_model_path)
        bits = float(trainer.callback_metrics["val_loss"]) / math.log(2)
        print(f"Steps             {trainer.global_step}")
        print(f"Validation        {bits:.3f} bits a byte")
        print(f"Best checkpoint   {best}\n")

    writer = GPT.load_from_checkpoint(best)
    print(writer.write(asked.prompt.encode(), asked.count).decode(errors="replace"))


if __name__ == "__main__":
    main()
