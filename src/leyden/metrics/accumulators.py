"""What an epoch's values come to. Sums are exact: added without rounding, in any order, where they are; rounded once."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from leyden.errors import IllegalLog
from leyden.metrics.words import (
    DTYPES,
    LOWEST,
    Combined,
    Shares,
    bits_of,
    float_of,
    from_bits,
    limbs,
    no_words,
    number_of,
    ordered,
    value_of,
    value_words,
)

Pending = list[tuple[Any, int]]
"""Values, each with the number of samples that it stands for."""

_UNIT = 1074  # every finite double is a whole number of 2**-1074
# PyTorch compares no unsigned integers but bytes; the largest of 64 bits fit into no other integer.
_COMPARED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.float64}


class Accumulator(ABC):
    """What an epoch's values of one name come to, on one process or, joined, on all of them."""

    asks: int | None = None
    """The rank that alone can read the value of what was joined. ``None``: each can."""

    @abstractmethod
    def add(self, pending: Pending) -> None:
        """Take values in. Nothing waits for the device."""

    @abstractmethod
    def value(self) -> Any:
        """What they come to: a number, or a tensor where there was one. May wait for the device. ``None``: nothing came."""

    @abstractmethod
    def shares(self) -> Shares:
        """What was taken in so far, by how processes combine it. May wait for the device."""

    @abstractmethod
    def joined(self, combined: Combined) -> Accumulator:
        """A new one, which took in what all processes did."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything taken in so far, as tensors, numbers and strings."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""

    @abstractmethod
    def take_over(self, other: Any) -> None:
        """Take in what ``other``, one of the same kind, took in."""


class Sum(Accumulator):
    """The sum, or the mean by samples, of what was added.

    Python's numbers are added as whole numbers of 2**-1074. Tensors are added on their device as whole numbers for each
    exponent (Kulisch's accumulator, one 64-bit bin an exponent), so the result depends on no order and no batch size. It has
    the type of the values: exact for integers, correctly rounded for floats, whose halves come out as ``float32``.
    """

    def __init__(self, mean: bool) -> None:
        self.mean = mean
        self.count = 0
        self.scaled = 0  # the finite Python numbers, times 2**_UNIT
        self.special = 0.0  # what is not finite among them
        self.whole = True  # whether all of them were integers
        self.bins: dict[tuple[str, torch.device], Tensor] = {}
        self.dtype: torch.dtype | None = None  # of the tensors
        self.device: torch.device | None = None  # of the first of them

    def add(self, pending: Pending) -> None:
        groups: dict[tuple[torch.dtype, torch.device, int], list[Tensor]] = {}
        for value, size in pending:
            weight = size if self.mean else 1
            self.count += weight
            if isinstance(value, Tensor):
                groups.setdefault((value.dtype, value.device, weight), []).append(bare(value))
            elif isinstance(value, int):
                self.scaled += value * weight << _UNIT
            elif math.isfinite(value):
                numerator, denominator = value.as_integer_ratio()
                self.scaled += numerator * weight << (_UNIT + 1 - denominator.bit_length())
                self.whole = False
            else:
                self.special += value if weight else 0.0
                self.whole = False
        for (dtype, device, weight), values in groups.items():
            # one product for each batch size instead of a tensor of weights: nothing is copied to the device
            self._add_tensors(torch.stack(values), dtype, device, weight)

    def _add_tensors(self, values: Tensor, dtype: torch.dtype, device: torch.device, weight: int) -> None:
        self.device = device if self.device is None else self.device
        kind = "double" if dtype == torch.float64 else "single" if dtype.is_floating_point else "whole"
        result = torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.int64
        self.dtype = result if self.dtype is None else torch.promote_types(self.dtype, result)
        bins = self.bins.get((kind, device))
        if bins is None:
            bins = self.bins[kind, device] = torch.zeros(_LENGTH[kind], dtype=torch.int64, device=device)
        elif bins.is_inference() and not torch.is_inference_mode_enabled():
            bins = self.bins[kind, device] = bins.clone()
        if kind == "whole":
            values = values.to(torch.int64)
            high = values >> 32
            if dtype == torch.uint64:
                high &= 0xFFFFFFFF  # its top bit is no sign
            bins += torch.stack([(values & 0xFFFFFFFF).sum(), high.sum()]).mul_(weight)
        elif kind == "double":
            _add_doubles(bins, values, weight)
        else:
            _add_singles(bins, values.to(torch.float32), weight)

    def summed(self) -> Any:
        """The sum, also of what is a mean; 0 of nothing."""
        total = copy.copy(self)
        total.mean = False
        value = total.value()
        return 0.0 if value is None else value

    def value(self) -> Any:
        if not self.count and not self.bins and self.whole:
            return None
        total, special, whole = self.scaled, self.special, self.whole
        for (kind, _), bins in self.bins.items():
            exact, odd = _READ[kind](bins.tolist())
            total, special, whole = total + exact, special + odd, whole and kind == "whole"
        if special == 0.0 and not self.mean and whole:
            number: float | int = total >> _UNIT
        elif special != 0.0 or (self.mean and self.count == 0):
            number = special if special != 0.0 else math.nan
        else:
            digits, lowest = (24, -149) if self.dtype == torch.float32 else (53, -1074)
            number = rounded(total, (self.count if self.mean else 1) << _UNIT, digits, lowest)
        if self.device is None:
            return number
        if isinstance(number, int):
            fits = -(2**63) <= number < 2**63
            return torch.tensor(number if fits else float(number), dtype=torch.int64 if fits else torch.float64).to(self.device)
        dtype = self.dtype if self.dtype is not None and self.dtype.is_floating_point else torch.float64
        if self.device.type == "mps" and dtype == torch.float64:
            dtype = torch.float32  # MPS has no double precision
        return torch.tensor(number, dtype=dtype, device=self.device)

    def shares(self) -> Shares:
        bins: dict[str, Tensor] = {}
        for (kind, _), found in self.bins.items():
            bins[kind] = found if kind not in bins else bins[kind] + found.to(bins[kind].device)
        special = [self.special == math.inf, self.special == -math.inf, self.special != self.special]
        return Shares(
            most=[_SUMMED.index(self.dtype), not self.whole, *special],
            sums=[limbs(self.count), limbs(self.scaled), *(bins.get(kind, _NO_BINS) for kind in _LENGTH)],
        )

    def joined(self, combined: Combined) -> Sum:
        whole = Sum(self.mean)
        dtype, broken, *special = combined.most
        count, scaled, *bins = combined.sums
        whole.count, whole.scaled = number_of(count.tolist()), number_of(scaled.tolist())
        whole.dtype, whole.whole, whole.special = _SUMMED[dtype], not broken, _odd(special)
        whole.bins = {(kind, found.device): found for kind, found in zip(_LENGTH, bins, strict=True) if len(found)}
        whole.device = (self.device or torch.device("cpu")) if whole.bins else None
        return whole

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "scaled": hex(self.scaled),
            "special": self.special,
            "whole": self.whole,
            "bins": [[kind, bins.clone()] for (kind, _), bins in self.bins.items()],
            "dtype": self.dtype,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.scaled, self.special = state["count"], int(state["scaled"], 16), state["special"]
        self.whole, self.dtype = state["whole"], state["dtype"]
        self.bins = {}
        for kind, bins in state["bins"]:  # of two devices, where the file's run had another one than this
            key = (kind, bins.device)
            self.bins[key] = self.bins[key] + bins if key in self.bins else bins.clone()
        self.device = next((device for _, device in self.bins), None)

    def take_over(self, other: Sum) -> None:
        self.count, self.scaled, self.special = self.count + other.count, self.scaled + other.scaled, self.special + other.special
        self.whole = self.whole and other.whole
        for key, bins in other.bins.items():
            self.bins[key] = self.bins[key] + bins if key in self.bins else bins
        dtypes = [each.dtype for each in (self, other) if each.dtype is not None]
        self.dtype = torch.promote_types(dtypes[0], dtypes[-1]) if dtypes else None
        self.device = self.device or other.device


class Extreme(Accumulator):
    """The smallest or largest of what was added. A NaN among them comes out as NaN."""

    def __init__(self, choose: str) -> None:
        self.choose = choose
        self.number: Any = None
        self.tensors: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def add(self, pending: Pending) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for value, _ in pending:
            if isinstance(value, Tensor):
                value = value.to(_COMPARED.get(value.dtype, value.dtype))
                groups.setdefault((value.dtype, value.device), []).append(bare(value))
            else:
                self.number = value if self.number is None else self._of([self.number, value])
        for key, values in groups.items():
            known = self.tensors.get(key)
            stacked = torch.stack(values if known is None else [known, *values])
            self.tensors[key] = stacked.amin() if self.choose == "min" else stacked.amax()

    def _of(self, values: list[Any]) -> Any:
        if any(value != value for value in values):
            return math.nan
        return min(values) if self.choose == "min" else max(values)

    def value(self) -> Any:
        tensors = list(self.tensors.values())
        if not tensors:
            return self.number
        if len(tensors) == 1 and self.number is None:
            return tensors[0]
        numbers = [tensor.item() for tensor in tensors] + ([] if self.number is None else [self.number])
        dtypes = {tensor.dtype for tensor in tensors}
        dtype = dtypes.pop() if self.number is None and len(dtypes) == 1 else None  # the same, on two devices
        return as_tensor(self._of(numbers)).to(tensors[0].device, dtype)

    def shares(self) -> Shares:
        words, beyond = [_NOTHING, LOWEST] * len(_COMPARABLE), no_words()
        of_type: dict[Any, list[Any]] = {}
        for (dtype, _), tensor in self.tensors.items():
            of_type.setdefault(dtype, []).append(tensor.item())
        values: list[tuple[Any, Any]] = [(dtype, self._of(found)) for dtype, found in of_type.items()]
        if isinstance(self.number, int) and not LOWEST <= self.number < -LOWEST:
            beyond = limbs(self.number)
        elif self.number is not None:
            values.append((int if isinstance(self.number, int) else float, self.number))
        for kind, value in values:
            at = 2 * _COMPARABLE.index(kind)
            if value != value:
                words[at] = _NAN_AMONG
            else:
                word = ordered(value) if isinstance(value, float) else int(value)
                # all bits turned over: the order is, too, and no number is lost, as -LOWEST would be
                words[at : at + 2] = [_SOME, word if self.choose == "max" else ~word]
        return Shares(most=words, listed=beyond)

    def joined(self, combined: Combined) -> Extreme:
        whole, numbers = Extreme(self.choose), []
        device = next((device for _, device in self.tensors), torch.device("cpu"))
        for kind, state, word in zip(_COMPARABLE, combined.most[::2], combined.most[1::2], strict=True):
            if state == _NOTHING:
                continue
            word = word if self.choose == "max" else ~word
            floating = kind is float or (isinstance(kind, torch.dtype) and kind.is_floating_point)
            value = math.nan if state == _NAN_AMONG else float_of(word) if floating else word
            if isinstance(kind, torch.dtype):
                whole.tensors[kind, device] = torch.tensor(value, dtype=kind, device=device)
            else:
                numbers.append(value)
        numbers += [number_of(words.tolist()) for words in combined.listed if len(words)]
        whole.number = whole._of(numbers) if numbers else None
        return whole

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number, "tensors": list(self.tensors.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number, self.tensors = state["number"], {}
        self.add([(tensor, 1) for tensor in state["tensors"]])

    def take_over(self, other: Extreme) -> None:
        numbers = [] if other.number is None else [other.number]
        self.add([(value, 1) for value in (*other.tensors.values(), *numbers)])


class Last(Accumulator):
    """The newest of what was added. Over processes, the newest of the one with the highest rank among those that have one."""

    def __init__(self) -> None:
        self.newest: Any = None

    def add(self, pending: Pending) -> None:
        if pending:
            self.newest = pending[-1][0]

    def value(self) -> Any:
        return self.newest

    def shares(self) -> Shares:
        return Shares(last=[] if self.newest is None else value_words(self.newest))

    def joined(self, combined: Combined) -> Last:
        whole = Last()
        if combined.last:
            value = value_of(combined.last)
            mine = self.newest.device if isinstance(self.newest, Tensor) else "cpu"
            whole.newest = value.to(mine) if isinstance(value, Tensor) else value
        return whole

    def state_dict(self) -> dict[str, Any]:
        return {"newest": self.newest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.newest = state["newest"]

    def take_over(self, other: Last) -> None:
        self.newest = self.newest if other.newest is None else other.newest


class Stacked(Accumulator):
    """What a function makes of all values, stacked into one tensor. The only one that grows: by one number a value.

    Over processes the values are stacked in the order of the ranks. Without a function (a checkpoint holds none), the value
    is the one that was read when the checkpoint was taken.
    """

    def __init__(self, name: str, function: Callable[[Tensor], Any] | None) -> None:
        self.name = name
        self.function = function
        self.known: Any = None
        self.chunks: list[Tensor] = []

    def add(self, pending: Pending) -> None:
        values = [bare(as_tensor(value)) for value, _ in pending]
        if values:
            dtype, device = values[0].dtype, values[0].device
            for value in values[1:]:
                dtype = torch.promote_types(dtype, value.dtype)
            self.chunks.append(torch.stack([value.to(device, dtype) for value in values]))

    def value(self) -> Any:
        if not self.chunks or self.function is None:
            return self.known
        result = self.function(torch.cat([chunk.to(self.chunks[0].device) for chunk in self.chunks]))
        if isinstance(result, Tensor) and result.numel() == 1:
            return result.detach().reshape(())
        if isinstance(result, int | float):
            return result
        shape = f" of shape {tuple(result.shape)}" if isinstance(result, Tensor) else ""
        raise IllegalLog(
            f"The reduce_fx of {self.name!r} turned {sum(map(len, self.chunks))} values into {type(result).__name__}{shape}. It "
            f"must return a single value."
        )

    def shares(self) -> Shares:
        words = [torch.tensor([int(self.function is not None)])]
        for chunk in self.chunks:
            words += [torch.tensor([DTYPES.index(chunk.dtype), len(chunk)]), bits_of(chunk)]
        return Shares(listed=torch.cat(words))

    def joined(self, combined: Combined) -> Stacked:
        whole = Stacked(self.name, self.function)
        device = self.chunks[0].device if self.chunks else torch.device("cpu")
        able = [rank for rank, words in enumerate(combined.listed) if words[0]]
        for words in combined.listed:
            at = 1
            while at < len(words):
                dtype, count = words[at : at + 2].tolist()
                at += 2 + count
                whole.chunks.append(from_bits(words[at - count : at], DTYPES[dtype]).to(device))
        if len(able) < len(combined.listed):
            whole.asks = able[0] if able else None
        return whole

    def state_dict(self) -> dict[str, Any]:
        return {"chunks": list(self.chunks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chunks = list(state["chunks"])

    def take_over(self, other: Stacked) -> None:
        self.chunks += other.chunks


def bare(value: Tensor) -> Tensor:
    return value.detach() if value.requires_grad else value


def as_tensor(value: Any) -> Tensor:
    """A number as a 0-dim tensor that holds all of it: ``int64``, or ``float64``."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = float(value)
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def rounded(numerator: int, denominator: int, digits: int, lowest: int) -> float:
    """``numerator / denominator`` rounded once, to the nearest float of ``digits`` bits, ties to even.

    ``lowest`` is the exponent of the smallest such float; too large a quotient is infinite.
    """
    if numerator == 0:
        return 0.0
    size = abs(numerator)
    exponent = size.bit_length() - denominator.bit_length()
    if (size << max(0, -exponent)) < (denominator << max(0, exponent)):
        exponent -= 1  # now 2**exponent <= quotient < 2**(exponent + 1)
    unit = max(exponent + 1 - digits, lowest)
    whole, rest = divmod(size << max(0, -unit), denominator << max(0, unit))
    twice = 2 * rest - (denominator << max(0, unit))
    if twice > 0 or (twice == 0 and whole & 1):
        whole += 1
    largest = 128 if digits == 24 else 1024
    number = math.inf if whole.bit_length() + unit > largest else math.ldexp(whole, unit)
    return number if numerator > 0 else -number


# Bins: a float32 with the stored exponent e is a whole number of 2**(e - 150); 253 finite exponents, then the three that are
# no numbers. A float64 with e is a whole number of 2**(e - 1075), split into two halves so that a bin holds 2**36 samples.
_LENGTH = {"whole": 2, "single": 255 + 3, "double": 2 * 2047 + 3}
_INF, _MINUS_INF, _NAN = 0, 1, 2  # counted after the exponents
_NO_BINS = no_words()
_SUMMED = (None, torch.int64, torch.float32, torch.float64)  # types of sums, each wider than those before it
# Of each type that can be compared, an extreme brings whether there is one, and which.
_COMPARABLE: tuple[Any, ...] = (*DTYPES, int, float)
_NOTHING, _SOME, _NAN_AMONG = 0, 1, 2


def _add_singles(bins: Tensor, values: Tensor, weight: int) -> None:
    bits = values.view(torch.int32)
    exponent = (bits >> 23) & 0xFF
    fraction = bits & 0x7FFFFF
    odd = exponent == 255
    whole = fraction + ((exponent != 0) << 23)
    signed = torch.where(odd, 1, torch.where(bits < 0, -whole, whole)).to(torch.int64).mul_(weight)
    place = torch.where(odd, 255 + torch.where(fraction != 0, _NAN, (bits < 0).to(torch.int32)), exponent.clamp(min=1))
    bins.index_add_(0, place, signed)


def _add_doubles(bins: Tensor, values: Tensor, weight: int) -> None:
    bits = values.view(torch.int64)
    exponent = (bits >> 52) & 0x7FF
    fraction = bits & 0xFFFFFFFFFFFFF
    odd = exponent == 2047
    whole = fraction + ((exponent != 0).to(torch.int64) << 52)
    sign = torch.where(bits < 0, -weight, weight)
    low = torch.where(odd, weight, (whole & 0x3FFFFFF) * sign)
    high = torch.where(odd, 0, (whole >> 26) * sign)
    at = exponent.clamp(min=1)
    place = torch.where(odd, 2 * 2047 + torch.where(fraction != 0, _NAN, (bits < 0).to(torch.int64)), at)
    bins.index_add_(0, place, low)
    bins.index_add_(0, torch.where(odd, 0, 2047 + at), high)


def _whole(bins: list[int]) -> tuple[int, float]:
    return bins[0] + (bins[1] << 32) << _UNIT, 0.0


def _singles(bins: list[int]) -> tuple[int, float]:
    return sum(amount << exponent + _UNIT - 150 for exponent, amount in enumerate(bins[:255]) if amount), _odd(bins[255:])


def _doubles(bins: list[int]) -> tuple[int, float]:
    # exponent e is at least 1, and its unit 2**(e - 1075) is 2**(e - 1) units of ours
    low = sum(amount << exponent - 1 for exponent, amount in enumerate(bins[:2047]) if amount)
    high = sum(amount << exponent + 25 for exponent, amount in enumerate(bins[2047:4094]) if amount)
    return low + high, _odd(bins[4094:])


def _odd(counts: Iterable[int]) -> float:
    plus, minus, nan = counts
    if nan or (plus and minus):
        return math.nan
    return math.inf if plus else -math.inf if minus else 0.0


_READ: dict[str, Callable[[list[int]], tuple[int, float]]] = {"whole": _whole, "single": _singles, "double": _doubles}
