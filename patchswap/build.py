"""What this installation of patchswap was built with."""

from __future__ import annotations

import torch

from patchswap import ops
from patchswap.version import __version__


def build_info() -> dict[str, object]:
    """Describe the installation, for bug reports and for scripts that need to know which kernels run.

    Returns a dict with the keys

    * version: of this package
    * torch: version of the torch in use
    * extension: True when the compiled extension is loaded; False means that plain torch code serves every device
    * extension_cause: why it is not loaded: "hidden" (a source folder comes before the installed package), "not built",
      "does not load" or "not wanted" (PATCHSWAP_NO_LIBRARY is set, or was at the installation), else None
    * extension_error: the same in a sentence, with the folders and what to do, else None
    * cpu_kernel: instruction set of the CPU kernel on this machine ("avx512vnni", "avx512", "avx2",
      "generic"), or "reference"
    * cuda_kernel: True when the extension holds CUDA kernels
    * cuda_toolkit: version of the CUDA toolkit that built them, else None
    * cuda_architectures: compute capabilities they were built for, such as ["8.0", "9.0a", "12.0+PTX"]; only with 9.0a
      the library holds the kernel for Hopper
    """
    extension, error = ops.extension, ops.extension_error
    architectures = [] if extension is None else [name for name in extension.cuda_architectures.split(",") if name]
    return {
        "version": __version__,
        "torch": torch.__version__,
        "extension": extension is not None,
        "extension_cause": None if error is None else error.cause,
        "extension_error": None if error is None else str(error),
        "cpu_kernel": "reference" if extension is None else extension.cpu_kernel,
        "cuda_kernel": bool(architectures),
        "cuda_toolkit": None if extension is None else extension.cuda_toolkit or None,
        "cuda_architectures": architectures,
    }
