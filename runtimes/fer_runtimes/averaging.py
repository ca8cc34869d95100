"""Test-time averaging: the mean logits of several views of one face. More often right, and as many times the work."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.errors import BadInput
from fer_runtimes.images import prepare
from fer_runtimes.labels import LABELS
from fer_runtimes.session import Report, Session

_CORNERS = tuple(itertools.product((-1, 1), (-1, 1)))
# name: where each view's crop lies (right, down; -1 to 1 of the room that the crop leaves), and whether it is mirrored
AVERAGES: dict[str, tuple[tuple[int, int, bool], ...]] = {
    "flip": ((0, 0, False), (0, 0, True)),
    "ten-crop": tuple((x, y, mirror) for mirror in (False, True) for x, y in ((0, 0), *_CORNERS)),
}


def check_average(average: str, crop: float) -> None:
    """Raises BadInput for a name that is not in ``AVERAGES``, and for corners of a crop that leaves none."""
    if average not in AVERAGES:
        raise BadInput(f"average {average!r} is unknown; known are {', '.join(AVERAGES)}")
    if crop == 1 and any(x or y for x, y, _ in AVERAGES[average]):
        raise BadInput(
            f"{average} shows the corners that a crop leaves out; this net is shown the whole face, use flip"
        )


def prepare_views(images: NDArray[np.uint8], size: int, crop: float, average: str) -> NDArray[np.uint8]:
    """Every view of grey faces: uint8 ``[N, H, W]`` to uint8 ``[N, V, size, size]``. Raises BadInput as ``check_average``."""
    check_average(average, crop)
    views = [
        np.flip(made, 3) if mirror else made
        for made, mirror in ((prepare(images, size, crop, x, y), mirror) for x, y, mirror in AVERAGES[average])
    ]
    return np.concatenate(views, axis=1)


class Averaged(Session):
    """A session that answers faces of ``views`` images each by the mean of their logits; closing it closes that one.

    ``infer`` takes uint8 ``[N * views, 1, S, S]``, the views of a face one after the other, and gives ``[N, 7]``.
    """

    def __init__(self, session: Session, views: int) -> None:
        super().__init__(session.bundle, session.options)
        self.batches = session.batches
        self._session, self._views = session, views

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See the class. Raises BadInput for views that make no whole faces."""
        if len(images) % self._views:
            raise BadInput(f"{len(images)} images are not whole faces of {self._views} views")
        logits = self._infer(images).reshape(-1, self._views, len(LABELS))
        mean: NDArray[np.float32] = logits.mean(1)
        return mean

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._session.infer(images)

    def report(self) -> Report:
        """The engine's own."""
        return self._session.report()

    def close(self) -> None:
        """Lets go of the engine."""
        self._session.close()
        super().close()
