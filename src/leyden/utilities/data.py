"""What is asked of loaders and batches, where Lightning puts it."""

from leyden.classic.tools import has_len
from leyden.data.sizes import extract_batch_size, has_iterable_dataset, has_len_all_ranks, sized_len

__all__ = ["extract_batch_size", "has_iterable_dataset", "has_len", "has_len_all_ranks", "sized_len"]
