"""Arguments and attributes, where Lightning puts them."""

from leyden.distributed.sharing import is_picklable
from leyden.hparams_attributes import AttributeDict, get_init_args

__all__ = ["AttributeDict", "get_init_args", "is_picklable"]
