"""Move the tensors of waiting micro-batches to host memory, and back when an operation reads them.

A micro-batch that waits for others holds its activations: those that autograd saved, and those of the functions that
have not returned. With all of them on the GPU, micro-batches would need as much memory as the whole batch. Here the
memory of every tensor that a micro-batch made is moved to the host when it starts to wait. What an operation reads is
moved back first, as an operating system does with pages. So a GPU holds what one micro-batch uses between two
collectives.

The tensors stay the same objects; only their storages are emptied and filled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

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

    def add(self, tensors: Iterable[Any]) -> None:
        """Record tensors that an operation has made."""
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                if storage.nbytes() >= self.smallest and storage._cdata not in self.made:  # noqa: SLF001
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

    def fetch(self, tensors: Iterable[Any]) -> None:
        """Bring the tensors back to their device."""
        for tensor in tensors if self.moved else ():
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
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
        super().__init__()
        self.pages = pages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        kwargs = kwargs or {}
        self.pages.fetch(tree_leaves((args, kwargs)))
        result = func(*args, **kwargs)
        self.pages.add(tree_leaves(result))
        return result
