"""Arguments and attributes, where Lightning puts them."""

from typing import Any

from leyden.distributed.sharing import is_picklable
from leyden.hparams_attributes import AttributeDict, get_init_args
from leyden.not_offered import absent

__all__ = ["AttributeDict", "get_init_args", "is_picklable"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__)
