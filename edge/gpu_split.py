"""How many layers go to which graphics card: all to one that holds them, else side by side on several, filled alike.

Cards compute one after the other what a token needs, so that a second one makes no answer faster: it is there for its
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edge.device_profiles import Device
from edge.memory import DeviceBytes, MemoryPrediction

Split = tuple[int, ...]
"""Layers on each card of a device."""

_HALVINGS = 7  # cards are filled alike to a hundredth


class Predict(Protocol):
    """What a model takes when its layers are split so."""

    def all(self, split: Split) -> MemoryPrediction: ...

    def card(self, split: Split, card: int) -> DeviceBytes:
        """On one of the cards, which is found much sooner."""


def most_layers(predict: Predict, device: Device, layers: int, *, may_spread: bool = True) -> Split:
    """The most of so many layers that fit; on several cards only if no single one holds all, and if it is allowed."""
    cards = range(len(device.gpus))
    alone = [split for card in cards if fits(predict.all(split := _alone(device, card, layers)), device)]
    if alone:
        return max(alone, key=lambda split: _speed_and_room(device, split))
    if may_spread and len(cards) > 1:
        spread = _Spread(predict, device)
        if whole := spread.balanced(layers):
            return whole
        return spread.filled(_most(lambda count: spread.filled(count) is not None, layers)) or _none(device)
    splits = (_alone(device, card, _most_on(predict, device, card, layers)) for card in cards)
    return max(splits, key=sum, default=())


def fixed_layers(predict: Predict, device: Device, layers: int, *, may_spread: bool = True) -> Split:
    """Just so many layers, whether they fit or not."""
    split = most_layers(predict, device, layers, may_spread=may_spread)
    if sum(split) == layers or not device.gpus:
        return split
    largest = max(range(len(device.gpus)), key=lambda card: device.gpus[card].free_bytes)
    return _alone(device, largest, layers)


def fits(prediction: MemoryPrediction, device: Device) -> bool:
    """Whether each card has room for its part, and main memory too where it is the card's as well."""
    if any(used.with_error > gpu.free_bytes for used, gpu in zip(prediction.gpus, device.gpus, strict=True)):
        return False
    needed = sum(used.with_error for used in prediction.gpus) + prediction.ram.with_error
    return not device.is_unified or needed <= device.ram.free_bytes


@dataclass(frozen=True)
class _Spread:
    """Layers in their order over all cards, each card filled to a share of what is free on it."""

    predict: Predict
    device: Device
    _needed: dict[tuple[Split, int], int] = field(default_factory=dict)
    """Bytes of a card, error included, by the split: shares and numbers of layers are tried by halving."""

    def balanced(self, layers: int) -> Split | None:
        """The split that fills all cards alike; None if so many layers do not fit."""
        best = self.filled(layers)
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS if best else 0):
            share = (low + high) / 2
            if split := self.filled(layers, share):
                high, best = share, split
            else:
                low = share
        return best

    def filled(self, layers: int, share: float = 1.0) -> Split | None:
        """The first cards filled, and the rest on the last one; None if that is too much for it."""
        split: Split = ()
        for _ in self.device.gpus[1:]:
            split = (*split, self._most_after(split, layers - sum(split), share))
        split = (*split, layers - sum(split))
        is_within = self._is_within(split, len(split) - 1, share)
        return split if is_within and fits(self.predict.all(split), self.device) else None

    def _most_after(self, before: Split, left: int, share: float) -> int:
        """The most of the layers that are left that the next card holds, if the one after it has the others."""
        behind = (0,) * (len(self.device.gpus) - len(before) - 2)
        return _most(lambda count: self._is_within((*before, count, left - count, *behind), len(before), share), left)

    def _is_within(self, split: Split, card: int, share: float) -> bool:
        if (split, card) not in self._needed:
            self._needed[split, card] = self.predict.card(split, card).with_error
        return self._needed[split, card] <= share * self.device.gpus[card].free_bytes


def _none(device: Device) -> Split:
    return (0,) * len(device.gpus)


def _alone(device: Device, card: int, layers: int) -> Split:
    return tuple(layers if each == card else 0 for each in range(len(device.gpus)))


def _most_on(predict: Predict, device: Device, card: int, layers: int) -> int:
    return _most(lambda count: fits(predict.all(_alone(device, card, count)), device), layers)


def _speed_and_room(device: Device, split: Split) -> tuple[float, int]:
    card = device.gpus[max(range(len(split)), key=lambda each: split[each])]
    return card.bandwidth, card.free_bytes


def _most(holds: Callable[[int], bool], layers: int) -> int:
    """The largest count up to so many that holds, by halving: each layer more takes more. None hold without any."""
    if holds(layers):
        return layers
    low, high = 0, layers
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
