"""Arguments and attributes, where Lightning puts them."""

from leyden.classic.tools import str_to_bool, str_to_bool_or_str
from leyden.distributed.sharing import is_picklable
from leyden.hparams_attributes import AttributeDict, get_init_args
from leyden.hparams_lookup import (
    clean_namespace,
    collect_init_args,
    lightning_getattr,
    lightning_hasattr,
    lightning_setattr,
    parse_class_init_keys,
    save_hyperparameters,
)

__all__ = [
    "AttributeDict",
    "clean_namespace",
    "collect_init_args",
    "get_init_args",
    "is_picklable",
    "lightning_getattr",
    "lightning_hasattr",
    "lightning_setattr",
    "parse_class_init_keys",
    "save_hyperparameters",
    "str_to_bool",
    "str_to_bool_or_str",
]
