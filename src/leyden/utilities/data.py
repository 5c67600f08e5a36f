"""What is asked of loaders and batches, where Lightning puts it."""

from leyden.data.sizes import extract_batch_size, has_iterable_dataset, has_len_all_ranks, sized_len

__all__ = ["extract_batch_size", "has_iterable_dataset", "has_len_all_ranks", "sized_len"]
