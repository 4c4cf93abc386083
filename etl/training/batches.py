"""What goes through a loader: examples, batches that were filled in one piece, and PyTorch itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

Example = dict[str, Any]


class Batch(list[Example]):
    """Examples whose images lie in one tensor, `whole`, which `collate` takes as it is.

    To PyTorch's own `default_collate` it is a list like any other.
    """

    def __init__(self, examples: Iterable[Example], whole: Example) -> None:
        super().__init__(examples)
        self.whole = whole


def collate(examples: Sequence[Example]) -> Example:
    """Join examples into a batch, without copying where they lie together already.

    Parameters
    ----------
    examples : sequence of dict

    Returns
    -------
    dict
        Tensors with a first axis of examples; lists of strings.
    """
    if isinstance(examples, Batch):
        return examples.whole
    joined: Example = load_torch().utils.data.default_collate(list(examples))
    return joined


def normalize(batch: Example) -> Example:
    """Turn whole steps into normalized values, on the device where they are.

    Parameters
    ----------
    batch : dict
        With `image`, an int16 tensor (..., z, y, x), and `step`, a float32 tensor. A batch of floats is given back
        as it is.

    Returns
    -------
    dict
        A copy whose `image` is float32; the values are those of ``dtype="float32"`` to the bit.
    """
    torch, image = load_torch(), batch["image"]
    if image.is_floating_point():
        return batch
    step = batch["step"].to(image.device, torch.float32)
    return {**batch, "image": image.to(torch.float32) * step.reshape(step.shape + (1,) * (image.ndim - step.ndim))}


def worker_init(worker: int) -> None:
    """Keep PyTorch to one thread in each worker process: give it to a DataLoader as `worker_init_fn`.

    blosc is kept to one thread by the reader itself.

    Parameters
    ----------
    worker : int
        Its number; every worker is set up alike.
    """
    del worker
    load_torch().set_num_threads(1)


def load_torch() -> Any:
    """Import PyTorch, which is optional and takes 2 s.

    Raises
    ------
    ImportError
        It is not installed; the message says what to install.
    """
    try:
        return import_module("torch")
    except ImportError as error:
        raise ImportError("etl.training needs PyTorch: pip install 'ct-etl[torch]'") from error
