"""The small perceptron of `federation` as provider and devices of a deployment; requests say which mask they are."""

from __future__ import annotations

import torch
from federation import SmallTask
from life import MASKS, LivingProvider

from zkapex.errors import InputError
from zkapex.server.federation.provider import Options, Orders


def task(options: Options) -> SmallTask:
    torch.set_num_threads(1)
    return SmallTask(int(options.get("index", 0)), epochs=3)


class Provider(LivingProvider):
    """Forgets what an order calls ``mask``, a key of `MASKS`."""

    def __init__(self, orders: Orders, mask: str = "request-1") -> None:
        super().__init__(mask)
        self._orders = orders

    def for_request(self, request_id: str) -> LivingProvider:
        mask = str(self._orders.about(request_id).get("mask", "request-1"))
        if mask not in MASKS:
            raise InputError(f"there is no mask {mask}")
        return Provider(self._orders, mask)


def provider(options: Options, orders: Orders) -> Provider:
    torch.set_num_threads(1)
    return Provider(orders)


class Classes(LivingProvider):
    """Forgets what an order calls ``forget-class``."""

    def __init__(self, orders: Orders, name: str = "") -> None:
        super().__init__()
        self._orders, self._name = orders, name

    def for_request(self, request_id: str) -> LivingProvider:
        return Classes(self._orders, str(self._orders.about(request_id)["forget-class"]))

    def forget_description(self) -> str:
        return f"class {self._name}"


def classes(options: Options, orders: Orders) -> Classes:
    return Classes(orders)
