"""What a pickle that runs code is made of."""

from typing import Any


class Reduced:
    """Pickles as the call that it is made of: ``Reduced(os.mkdir, ("trapped",))`` makes a folder where it is loaded."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced
