"""Labels of a data set in the folder layout that are a model's predictions until somebody has corrected them.

`prelabelled.txt` beside `classes.json` names them, each with the SHA-256 of its class ids: whoever changes one pixel
has corrected it, and a file that is only stored anew, in colours for example, is not corrected. One pixel is enough, as
all that was wrong may be a person far away: how much has changed does not tell how well a label was looked at.
Legend: H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.data.formats import Files
from clst_runtime.errors import DataError
from clst_runtime.system.files.atomic import write_text
from clst_runtime.system.files.json_values import read_text

NAME = "prelabelled.txt"
_HEAD = "# Labels that are still a model's predictions. Where one is right as it is, remove its line.\n"


def write_prelabelled(root: Path, labels: Mapping[Path, npt.NDArray[np.uint8]]) -> None:
    """Note the class ids H,W of the label files below `root` that are predictions."""
    lines = [f"{_digest(ids)}  {path.relative_to(root).as_posix()}\n" for path, ids in labels.items()]
    write_text(root / NAME, _HEAD + "".join(lines))


def refuse_prelabels(root: Path, files: Sequence[Files], read: Callable[[Path], npt.NDArray[Any]]) -> None:
    """Refuse by DataError labels that nobody has corrected.

    Args:
        files: images and labels of the data set.
        read: gives the raw ids H,W of a label file.
    """
    if not (root / NAME).is_file():
        return
    lines = [line.split(maxsplit=1) for line in read_text(root / NAME).splitlines() if not line.startswith("#")]
    predicted = {root / line[1]: line[0] for line in lines if len(line) == 2}
    left = [path for path in (each.label for each in files) if path in predicted]
    left = [path for path in left if _digest(read(path)) == predicted[path]]
    if left:
        raise DataError(
            f"{root}: {len(left)} of {len(files)} labels are still a model's predictions, e.g. {left[0].name}; "
            f"correct them, or remove the lines of those that are right from {root / NAME}"
        )


def _digest(ids: npt.NDArray[Any]) -> str:
    rows, columns = ids.shape
    return hashlib.sha256(f"{rows}x{columns} ".encode() + ids.astype(np.uint8).tobytes()).hexdigest()
