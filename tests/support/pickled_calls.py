"""What a pickle that runs code is made of."""

from collections.abc import Callable


class Call:
    """Pickles as a call, which is made where it is unpickled."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.reduced
