"""PyTorch, eager: the net as its own framework runs it, folded or with its branches.

The bundle holds a checkpoint (plain tensors), not a TorchScript or ``torch.export`` program: both
can carry code, and bundles come from strangers. So the net is built again by ``fer_train``, and
this is the one file of this package that imports torch and ``fer_train``, and only when chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import NotAvailable
from fer_runtimes.session import Options, Report, Session
from fer_runtimes.tracing import OUTPUT, Tensor, Tracer, kind_of


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
        torch.backends.cudnn.allow_tf32 = False  # on by default, with 10 bits where the bundle says float32
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


def trace(bundle: Bundle, threads: int) -> Tracer:
    """Every operation below the modules, each under the path of the innermost module that asked for it.

    Forward hooks alone would miss what a module computes between its parts: sums of branches, means.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from fer_train.checkpoint import load_checkpoint
    from fer_train.deploy import deployable

    torch.set_num_threads(threads)
    net = deployable(load_checkpoint(bundle.file(".pt")))
    constants = {tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    path: list[str] = []

    def enter(name: str, *_: Any) -> None:
        path.append(name)

    def leave(*_: Any) -> None:
        path.pop()

    for name, module in net.named_modules():
        module.register_forward_pre_hook(partial(enter, name))
        module.register_forward_hook(leave)

    class Recorder(TorchDispatchMode):
        seen: list[Tensor]

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            first = result[0] if isinstance(result, (tuple, list)) else result
            given = [one for one in args if isinstance(one, torch.Tensor) and one.data_ptr() not in constants]
            kind = kind_of(func.overloadpacket.__name__, len(given))
            if kind and isinstance(first, torch.Tensor) and first.is_floating_point() and first.ndim:
                name = path[-1] or "normalisation"  # all that stands outside the net itself (``fer_train.deploy``)
                self.seen.append(Tensor((name,), kind, first.float().numpy().copy()))
            return result

    def tensors(images: NDArray[np.uint8]) -> Iterator[Tensor]:
        # not inference_mode: that would show an operation before it is taken apart into those that others have
        recorder = Recorder()  # type: ignore[no-untyped-call]  # of torch
        recorder.seen = []
        with torch.no_grad(), recorder:
            logits = net(torch.from_numpy(images))
        yield from recorder.seen
        yield Tensor(("logits",), OUTPUT, logits.numpy())

    return tensors
