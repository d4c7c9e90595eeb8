"""Operators of torch.library that cost nothing beside their kernels outside of the compiler.

The library's way to a function is tens of microseconds of Python long, as long as a small kernel.
"""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class Operator(Generic[P, R]):
    """A function, and the operator under which a graph of the compiler has it.

    Called directly it has no gradient: those who need one call `registered`, or bring their own.
    """

    def __init__(self, name: str, function: Callable[P, R]) -> None:
        self.function = function
        self.registered: Any = torch.library.custom_op(name, function, mutates_args=())
        """What torch.library made of it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's outputs."""
        if torch.compiler.is_compiling():
            found: R = self.registered(*args, **kwargs)
            return found
        return self.function(*args, **kwargs)

    def register_fake(self, function: Callable[..., R]) -> None:
        """What the compiler takes in its place: empty outputs of the same shapes."""
        self.registered.register_fake(function)


def operator(name: str) -> Callable[[Callable[P, R]], Operator[P, R]]:
    """A decorator, with the operator's name as ``muse::NAME``."""
    return lambda function: Operator(name, function)
