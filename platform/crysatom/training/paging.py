"""Move the tensors of waiting micro-batches to host memory, and back when an operation reads them.

A micro-batch that waits for others holds its activations: those that autograd saved, and those of the functions that
have not returned. With all of them on the GPU, micro-batches would need as much memory as the whole batch. Here the
memory of every tensor that a micro-batch made is moved to the host when it starts to wait. What an operation reads is
moved back first, as an operating system does with pages. So a GPU holds what one micro-batch uses between two
collectives, besides weights, gradients and the batch.

The tensors stay the same objects; only their storages are emptied and filled. A step that fails may leave emptied
gradients, which the next one discards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

SMALLEST = 2**20
"""Bytes from which a tensor is moved: a smaller one is not worth a transfer."""


class Pages:
    """The storages that the micro-batches of one step have made, and where they are.

    Args:
        smallest: Bytes from which a storage is moved.

    """

    def __init__(self, smallest: int = SMALLEST) -> None:
        self.smallest = smallest
        self.made: dict[int, StorageWeakRef] = {}
        """Storages on the device, by address; it is not used again while there is a weak reference."""
        self.moved: dict[int, tuple[StorageWeakRef, Tensor]] = {}
        """Emptied storages, and their bytes in host memory."""

    def add(self, made: Any) -> None:
        """Record the tensors that an operation has made."""
        for tensor in _tensors(made):
            if tensor.nbytes >= self.smallest:
                storage = tensor.untyped_storage()
                self.made[storage._cdata] = StorageWeakRef(storage)  # noqa: SLF001

    def move(self) -> None:
        """Move everything that was made, and is still used, to host memory."""
        self.moved = {key: page for key, page in self.moved.items() if not page[0].expired()}
        made, self.made = self.made, {}
        with _disable_current_modes():
            for key, reference in made.items():
                storage: Any = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)  # noqa: SLF001
                if storage is not None and storage.resizable():
                    content = torch.empty(storage.nbytes(), dtype=torch.uint8)
                    content.untyped_storage().copy_(storage)
                    storage.resize_(0)
                    self.moved[key] = reference, content

    def fetch(self, arguments: Any) -> None:
        """Bring the tensors among the arguments of an operation back to their device."""
        for tensor in _tensors(arguments) if self.moved else ():
            storage = tensor.untyped_storage()
            page = self.moved.pop(storage._cdata, None)  # noqa: SLF001
            if page is not None:
                self._fill(storage, *page)

    def fetch_all(self) -> None:
        """Bring back everything that is still used: results and gradients."""
        for reference, content in list(self.moved.values()):
            storage: Any = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)  # noqa: SLF001
            if storage is not None:
                self._fill(storage, reference, content)
        self.moved = {}

    def _fill(self, storage: Any, reference: StorageWeakRef, content: Tensor) -> None:
        with _disable_current_modes():
            storage.resize_(content.nbytes)
            storage.copy_(content.untyped_storage())
        self.made[storage._cdata] = reference  # noqa: SLF001


class Watch(TorchDispatchMode):
    """Calls :meth:`Pages.fetch` before, and :meth:`Pages.add` after, each operation of this thread.

    Args:
        pages: Shared by the threads, one of which runs at a time.

    """

    def __init__(self, pages: Pages) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pages = pages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        self.pages.fetch(args)
        if kwargs:
            self.pages.fetch(list(kwargs.values()))
        result = func(*args, **(kwargs or {}))
        if _is_new(func):
            self.pages.add(result)
        return result


@cache
def _is_new(func: Any) -> bool:
    """Return whether an operation makes tensors, rather than views of its arguments: weights and batches stay."""
    return all(result.alias_info is None for result in func._schema.returns)  # noqa: SLF001


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists and tuples; ten times as fast as torch's own function."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
