"""A small language model and the text that it learns, under the names of Lightning's demos."""

import math
import os
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from leyden.checkpoint.files import local_path
from leyden.errors import MissingText
from leyden.module import LightningModule
from leyden.not_offered import absent

__all__ = ["LightningTransformer", "PositionalEncoding", "Transformer", "WikiText2"]

TEXT = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/train.txt"
END_OF_LINE = "<eos>"


class PositionalEncoding(nn.Module):
    """Adds sines and cosines of each position to embeddings of shape ``(batch, length, dim)``, then dropout.

    After Vaswani et al., "Attention Is All You Need", section 3.5.

    Args:
        dim: numbers in an embedding.
        dropout: the share of numbers that is dropped in training.
        max_len: the longest sequence.
    """

    def __init__(self, dim: int, dropout: float = 0.1, max_len: int = 5000) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        angles = torch.arange(max_len).unsqueeze(1) * torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000) / dim))
        waves = torch.zeros(max_len, dim)
        waves[:, 0::2] = angles.sin()
        waves[:, 1::2] = angles.cos()[:, : dim // 2]
        self.waves: Tensor
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The embeddings with their positions, of the same shape."""
        out: Tensor = self.dropout(x + self.waves[: x.size(1)])
        return out


class Transformer(nn.Module):
    """An encoder and a decoder that predict the words of ``target`` from ``inputs``.

    Args:
        vocab_size: words in the dictionary.
        ninp: numbers in a word's embedding.
        nhead: heads of attention.
        nhid: width of the feed-forward layers.
        nlayers: layers of the encoder, and as many of the decoder.
        dropout: the share of numbers that is dropped in training.
    """

    def __init__(
        self,
        vocab_size: int = 33278,
        ninp: int = 200,
        nhead: int = 2,
        nhid: int = 200,
        nlayers: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.ninp = ninp
        self.vocab_size = vocab_size
        self.pos_encoder = PositionalEncoding(ninp, dropout)
        self.embedding = nn.Embedding(vocab_size, ninp)
        self.transformer = nn.Transformer(
            d_model=ninp,
            nhead=nhead,
            num_encoder_layers=nlayers,
            num_decoder_layers=nlayers,
            dim_feedforward=nhid,
            dropout=dropout,
            batch_first=True,
        )
        self.decoder = nn.Linear(ninp, vocab_size)
        self.src_mask: Tensor | None = None

    def generate_square_subsequent_mask(self, size: int) -> Tensor:
        """``(size, size)``: 0 where a position may look, minus infinity for what comes after it."""
        return torch.full((size, size), float("-inf")).triu(1)

    def forward(self, inputs: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probabilities of the words, of shape ``(batch * length, vocab_size)``.

        Args:
            inputs: words by number, of shape ``(batch, length)``.
            target: the words to predict, of the same shape; each position sees the ones up to its own.
            mask: what a position of ``target`` may look at; by default nothing after itself.
        """
        if mask is None:
            if self.src_mask is None or self.src_mask.size(0) != target.size(1):
                self.src_mask = self.generate_square_subsequent_mask(target.size(1))
            mask = self.src_mask.to(target.device)
        source = self.pos_encoder(self.embedding(inputs) * math.sqrt(self.ninp))
        wanted = self.pos_encoder(self.embedding(target) * math.sqrt(self.ninp))
        decoded = self.decoder(self.transformer(source, wanted, tgt_mask=mask))
        return functional.log_softmax(decoded, dim=-1).view(-1, self.vocab_size)


class Dictionary:
    """Words and their numbers, in the order in which they come first."""

    def __init__(self) -> None:
        self.word2idx: dict[str, int] = {}
        self.idx2word: list[str] = []

    def add_word(self, word: str) -> int:
        """The word's number; a new one, where it has none yet."""
        if word not in self.word2idx:
            self.word2idx[word] = len(self.idx2word)
            self.idx2word.append(word)
        return self.word2idx[word]

    def __len__(self) -> int:
        return len(self.idx2word)


class WikiText2(Dataset[tuple[Tensor, Tensor]]):
    """The training text of WikiText-2 in blocks: ``(words, the words one further)``, by number.

    Args:
        data_dir: the folder of ``wikitext-2.txt``.
        block_size: words in a block.
        download: get the text where it is not there yet.

    Raises:
        MissingText: a ``FileNotFoundError``: the text is not there, and is not to be got or cannot be.
    """

    def __init__(self, data_dir: str | os.PathLike[str] = "data", block_size: int = 35, download: bool = True) -> None:
        self.path = os.path.join(local_path(os.fspath(data_dir)), "wikitext-2.txt")
        if download:
            self.download(self.path)
        if not os.path.isfile(self.path):
            raise MissingText(f"There is no file {self.path!r}. Put the text of WikiText-2 there, or say download=True.")
        self.dictionary = Dictionary()
        with open(self.path, encoding="utf-8") as lines:
            numbers = [self.dictionary.add_word(word) for line in lines for word in [*line.split(), END_OF_LINE]]
        self.data = torch.tensor(numbers, dtype=torch.int64)
        self.block_size = block_size

    @property
    def vocab_size(self) -> int:
        """How many different words there are."""
        return len(self.dictionary)

    def __len__(self) -> int:
        return max(0, len(self.data) // self.block_size - 1)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        start = index * self.block_size
        return self.data[start : start + self.block_size], self.data[start + 1 : start + self.block_size + 1]

    @staticmethod
    def download(destination: str | os.PathLike[str]) -> None:
        """Write the text to the file ``destination``, unless it is there already."""
        destination = local_path(os.fspath(destination))
        if os.path.exists(destination):
            return
        try:
            with urlopen(TEXT, timeout=60) as answer:
                text = answer.read()
        except (URLError, OSError) as error:
            raise MissingText(
                f"The text of WikiText-2 could not be read from {TEXT} ({error}). Put it at {destination!r}."
            ) from error
        os.makedirs(os.path.dirname(destination) or ".", exist_ok=True)
        with open(destination, "wb") as file:
            file.write(text)


class LightningTransformer(LightningModule):
    """:class:`Transformer` as a module that trains itself on :class:`WikiText2`.

    Args:
        vocab_size: words in the dictionary.
    """

    def __init__(self, vocab_size: int = 33278) -> None:
        super().__init__()
        self.model = Transformer(vocab_size=vocab_size)

    def forward(self, inputs: Tensor, target: Tensor) -> Tensor:
        """See :meth:`Transformer.forward`."""
        out: Tensor = self.model(inputs, target)
        return out

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The negative log-likelihood of the words."""
        inputs, target = batch
        return functional.nll_loss(self(inputs, target), target.view(-1))

    def prepare_data(self) -> None:
        """Get the text."""
        WikiText2(download=True)

    def train_dataloader(self) -> Any:
        """Blocks of 35 words."""
        return DataLoader(WikiText2())

    def configure_optimizers(self) -> Any:
        """SGD with a learning rate of 0.1."""
        return torch.optim.SGD(self.model.parameters(), lr=0.1)


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.demos")
