"""Hyper-parameters in files of their own, by the functions that Lightning has for it."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

from leyden.checked import read_word
from leyden.checkpoint.files import local_path
from leyden.errors import InvalidOption, InvalidType
from leyden.hparams import as_plain, is_config
from leyden.hparams_construct import load_hparams_from_file
from leyden.loggers.yaml_text import to_yaml
from leyden.types import Path


def update_hparams(hparams: MutableMapping[str, Any], updates: Mapping[str, Any]) -> None:
    """Put ``updates`` into ``hparams``, in place; where both have a mapping under a name, into that one."""
    for name, value in updates.items():
        if isinstance(value, Mapping) and isinstance(hparams.get(name), MutableMapping):
            update_hparams(hparams[name], value)
        else:
            hparams[name] = value


def convert(val: str) -> Any:
    """A text as what it says: a number, true or false, ``None``, a list or dict, else as it is."""
    return read_word(val)


def save_hparams_to_tags_csv(tags_csv: Path, hparams: Mapping[str, Any] | argparse.Namespace) -> None:
    """Write ``key,value`` and a line for each hyper-parameter. Raises :class:`InvalidOption` where there is no such folder."""
    values = _values(hparams)
    with open(_in_a_folder("tags_csv", tags_csv), "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "value"])
        writer.writerows(values.items())


def save_hparams_to_yaml(config_yaml: Path, hparams: Mapping[str, Any] | argparse.Namespace, use_omegaconf: bool = True) -> None:
    """Write hyper-parameters as YAML that any loader reads without running code: other objects stand as their text.

    With ``use_omegaconf`` OmegaConf's interpolations stay what they are; without, their values are written. Raises
    :class:`InvalidOption` where there is no such folder.
    """
    place = _in_a_folder("config_yaml", config_yaml)
    values = as_plain(hparams, resolve=not use_omegaconf) if is_config(hparams) else _values(hparams)
    with open(place, "w", encoding="utf-8") as file:
        file.write(to_yaml(values))


def load_hparams_from_yaml(config_yaml: Path, use_omegaconf: bool = True) -> Any:
    """Hyper-parameters from a YAML file, as a dict; nothing where there is no file.

    With ``use_omegaconf`` an OmegaConf object, where the program has imported omegaconf. Raises :class:`InvalidOption` for a
    file that is no mapping, :class:`MissingPackage` without PyYAML.
    """
    if not os.path.exists(local_path(os.fspath(config_yaml))):
        return {}
    values = load_hparams_from_file(config_yaml)
    omegaconf = sys.modules.get("omegaconf")
    return omegaconf.OmegaConf.create(values) if use_omegaconf and omegaconf is not None else values


def _values(hparams: Any) -> dict[str, Any]:
    if isinstance(hparams, argparse.Namespace):
        return dict(vars(hparams))
    if isinstance(hparams, Mapping):
        return dict(hparams)
    raise InvalidType("hparams", hparams, "a dict or a namespace")


def _in_a_folder(name: str, path: Path) -> str:
    path = local_path(os.fspath(path))
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise InvalidOption(name, path, f"a file in a folder that is there: {folder} is not")
    return path
