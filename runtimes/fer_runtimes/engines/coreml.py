"""Core ML itself, through coremltools: macOS alone predicts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.labels import LABELS
from fer_runtimes.mil.program import quiet_coremltools
from fer_runtimes.session import Options, Report, Session

# device: coremltools' ComputeUnit. Core ML chooses per op among the units allowed; "cpu" alone leaves no choice.
COMPUTE_UNITS = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ane": "CPU_AND_NE", "all": "ALL"}


class CoreMLSession(Session):
    """A compiled model and one prediction at a time: Core ML takes single images."""

    batches = False

    def __init__(self, bundle: Bundle, options: Options) -> None:
        with quiet_coremltools():
            import coremltools

        super().__init__(bundle, options)
        if options.device not in COMPUTE_UNITS:
            raise NotAvailable(f"coreml has no device {options.device!r}; choose one of {', '.join(COMPUTE_UNITS)}")
        units = coremltools.ComputeUnit[COMPUTE_UNITS[options.device]]
        try:
            self._model = coremltools.models.MLModel(str(bundle.path / "model.mlpackage"), compute_units=units)
        except Exception as error:  # Core ML's errors arrive as RuntimeError, ValueError or plain Exception
            raise BadInput(f"{bundle.path}: Core ML cannot load the package ({error}); export it again") from error
        self._input = self._model.get_spec().description.input[0].name

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        from PIL import Image

        logits = np.empty((len(images), len(LABELS)), np.float32)
        for i, image in enumerate(images):
            logits[i] = self._model.predict({self._input: Image.fromarray(image[0], "L")})["logits"]
        return logits

    def report(self) -> Report:
        """compute is what the program declares; Core ML does not tell what each unit does with it."""
        import platform

        from coremltools import __version__

        versions = {"coremltools": __version__, "macos": platform.mac_ver()[0]}
        precision = self.bundle.manifest.precision
        compute = "fp16" if precision == "int8-weights" else precision
        return Report(self.options.device, self._model.compute_unit.name, compute, 0, versions)
