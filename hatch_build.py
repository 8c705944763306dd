"""Puts machine code into what is built: an image of all kernels for each level of this kind of processor.

It takes half a minute. Where it cannot be done, what is built needs Numba when it is used.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

IMAGES = "quidditch_core/_kernels"


class ImagesHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs before a wheel is made, an editable one too, whose images lie beside the sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        problem = compile_kernels(Path(self.root)) if sys.platform == "linux" else "they are made on Linux"
        if problem:
            for path in (Path(self.root) / IMAGES).glob("*.image"):
                path.unlink()  # of other sources
            self.app.display_warning(f"no precompiled kernels: {problem}")
            build_data["dependencies"].append("numba>=0.62")
        elif version == "standard":
            build_data["artifacts"].append(f"/{IMAGES}/*.image")
            build_data["pure_python"] = False
            machine = platform.machine()  # the code needs no version of any library
            build_data["tag"] = f"py3-none-manylinux_2_17_{machine}.musllinux_1_1_{machine}"


def compile_kernels(root: Path) -> str:
    """Make the images; what went wrong, or nothing."""
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-m", "quidditch_core.compiler", "images"], cwd=root, text=True,
                          capture_output=True, env=os.environ | {"PYTHONPATH": path})
    return (done.stderr.strip() or "the compiler ended without a word").splitlines()[-1] if done.returncode else ""
