"""PyTorch, eager: the net as its own framework runs it, folded or with its branches.

The bundle holds a checkpoint (plain tensors), not a TorchScript or ``torch.export`` program: both
can carry code, and bundles come from strangers. So the net is built again by ``fer_train``, and
this is the one file of this package that imports torch and ``fer_train``, and only when chosen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import NotAvailable
from fer_runtimes.session import Options, Report, Session


class TorchSession(Session):
    """A module in eval mode under ``torch.inference_mode``."""

    def __init__(self, bundle: Bundle, options: Options) -> None:
        import torch

        from fer_train.checkpoint import load_checkpoint
        from fer_train.deploy import deployable

        super().__init__(bundle, options)
        if options.device not in ("cpu", "cuda", "mps"):
            raise NotAvailable(f"pytorch has no device {options.device!r} here; choose one of cpu, cuda, mps")
        torch.set_num_threads(options.threads)
        try:
            self._net = deployable(load_checkpoint(bundle.file(".pt"))).to(options.device)
        except (RuntimeError, AssertionError) as error:
            raise NotAvailable(f"pytorch cannot use device {options.device!r}: {error}; use --device cpu") from error

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits: NDArray[np.float32] = self._net(torch.tensor(images, device=self.options.device)).cpu().numpy()
        return logits

    def report(self) -> Report:
        import torch

        parameter = next(self._net.parameters())
        compute = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[parameter.dtype]
        return Report(parameter.device.type, "eager", compute, torch.get_num_threads(), {"torch": torch.__version__})
