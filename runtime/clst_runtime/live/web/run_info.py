"""What a page shows of the run besides its counts, without anybody's password."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.system.credentials import all_without_credentials


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What does not change while a run lasts."""

    manifest: Manifest
    model: str
    """Its file, as it was given."""
    source: str
    """The source's URI, as it was given; shown without credentials."""
    backend: str
    """`Backend.description`."""
    alpha: float = 0.5
    """Strength of the classes' colours over the image, 0 … 1."""
    fps: float | None = None
    """Rate of a file, which recordings keep; None = frames are shown from their times of capture on."""

    def to_json(self) -> dict[str, Any]:
        manifest = self.manifest
        values = {
            "model": self.model,
            "source": self.source,
            "backend": self.backend,
            "network": manifest.network,
            "input_hw": list(manifest.input_hw),
            "fit": manifest.fit.value,
            "precision": manifest.precision,
            "has_confidence": manifest.has_confidence,
            "checkpoint": manifest.source_checkpoint_sha256,
            "tool_versions": dict(manifest.tool_versions),
            "parity": dict(manifest.parity),
            "engine": dict(manifest.engine),
            "class_list": manifest.classes.name,
            "knows_its_camera": bool(manifest.domain),
            "classes": [
                {"name": name, "colour": list(colour)}
                for name, colour in zip(manifest.classes.names, manifest.classes.colours, strict=True)
            ],
        }
        return {name: all_without_credentials(value) for name, value in values.items()}
