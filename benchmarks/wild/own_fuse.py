"""Batch norms of a module, and how many the library's own fuse leaves: a script for the library's environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.wild.network import Network

#: By library: what it is called, and the lines that make ``fused`` of ``module``.
OWN = {
    "timm": (
        "reparameterize_model",
        "from timm.utils import reparameterize_model\nfused = reparameterize_model(module)",
    ),
    "ultralytics": ("fuse()", "fused = module.fuse(verbose=False)"),
}
_SCRIPT = """
import json
from net import make
from torch.nn.modules.batchnorm import _BatchNorm
def norms(module):
    return sum(isinstance(part, _BatchNorm) for part in module.modules())
module = make().eval()
before = norms(module)
{lines}
print(json.dumps([before, norms(fused)]))
"""


def norms(network: Network, python: Path, folder: Path, limit: float) -> tuple[int, int] | tuple[None, None]:
    """Count the batch norms of the module in ``folder``, before and after its library's own fuse.

    None stands for what cannot be counted, as the module cannot be built.
    """
    command = [str(python), "-c", _SCRIPT.format(lines=OWN[network.library][1])]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return None, None
    if done.returncode:
        return None, None
    before, after = json.loads(done.stdout.strip().splitlines()[-1])
    return before, after
