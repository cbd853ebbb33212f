"""A CUDA graph of an engine's work, taken into use only after it has shown that it computes the same.

Nothing is launched before the plain way has run, for TensorRT wants that before a recording. One graph is made of one
execution context, as NVIDIA asks for, and with addresses that never change (`backends/cuda/buffers.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda.device import CudaDevice, Graph, GraphFailed
from clst_runtime.errors import ClstError

Outputs = npt.NDArray[np.uint8]  # N,H,W: class ids, and confidence where the model gives it

PATCH = 32
"""Edge of the patches of one colour in drawn frames, pixels."""


def drawn_frames(input_hw: tuple[int, int], count: int = 2) -> list[Frame]:
    """Frames H,W,3 of coloured patches, the same ones each time: what a graph is compared on before it drives."""
    rows, columns = input_hw
    generator, frames = np.random.default_rng(0), []
    for _ in range(count):
        patches = generator.integers(0, 256, (-(-rows // PATCH), -(-columns // PATCH), 3), np.uint8)
        frames.append(np.ascontiguousarray(patches.repeat(PATCH, 0).repeat(PATCH, 1)[:rows, :columns]))
    return frames


def prove_graph(
    device: CudaDevice,
    queue: Callable[[], None],
    run: Callable[[Frame, Callable[[], None]], Outputs],
    frames: Sequence[Frame],
) -> Graph:
    """Record what `queue` queues and compare what it gives with the plain run, bit by bit, on each frame.

    Args:
        queue: queues the work of one frame, up to the engine.
        run: brings a frame in, has its work queued by the function it gets, and gives the outputs N,H,W.
        frames: images H,W,3 of the engine's input size.

    Raises:
        GraphFailed: the graph cannot be made or differs; the plain run has shown that it is as good as before.
        ClstError: CUDA failed, or the plain run is not what it was.
    """
    plain = [run(frame, queue) for frame in frames]
    try:
        graph = device.record_graph(queue)
        try:
            _compare(plain, [run(frame, lambda: device.launch(graph)) for frame in frames])
        except BaseException:
            device.release_graph(graph)
            raise
    except GraphFailed as error:
        if not np.array_equal(run(frames[0], queue), plain[0]):
            raise ClstError(
                "the engine gives other results after a CUDA graph of it has failed "
                f"({error.message}); open it without a graph"
            ) from error
        raise
    return graph


def _compare(plain: Sequence[Outputs], launched: Sequence[Outputs]) -> None:
    for number, (wanted, found) in enumerate(zip(plain, launched, strict=True), start=1):
        if not np.array_equal(found, wanted):
            raise GraphFailed(
                f"{np.count_nonzero(found != wanted)} of {wanted.size} values of drawn frame {number} "
                "differ from the run without it"
            )
