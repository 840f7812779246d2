"""Builds segnet_ext._C against the installed torch: with CUDA where torch and a toolkit have it, else for the CPU.

Environment variables: FORCE_CUDA=1 and FORCE_CPU=1 decide for or against CUDA, TORCH_CUDA_ARCH_LIST names the GPU
architectures, CXX the compiler, MAX_JOBS the number of compiler processes; DEBUG=1 builds unoptimised, with assertions.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as setuptools_build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent / "build_backend"))

import segnet_ext_build as backend
import segnet_ext_toolchain as toolchain

NAME = "segnet_ext._C"
# An sdist is built against no torch, also where one is installed.
HAS_TORCH = "sdist" not in sys.argv and backend.find_torch()

if HAS_TORCH:
    # Set before torch.utils.cpp_extension is imported, which else takes the folder of an nvcc that is only a script.
    try:
        TOOLKIT: toolchain.Toolkit | toolchain.ToolchainError = toolchain.find_toolkit()
        os.environ["CUDA_HOME"] = str(TOOLKIT.root)
    except toolchain.ToolchainError as error:
        TOOLKIT = error

    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension, _get_cuda_arch_flags

    TORCH_FOLDER = Path(torch.__file__).parent
else:
    BuildExtension = setuptools_build_ext


def say(message: str) -> None:
    print(f"segnet_ext: {message}", flush=True)


def choose_toolkit() -> toolchain.Toolkit | None:
    """The CUDA toolkit to build with; None for a build without CUDA."""
    force_cuda, force_cpu = toolchain.enabled("FORCE_CUDA"), toolchain.enabled("FORCE_CPU")
    if force_cuda and force_cpu:
        raise SystemExit("segnet_ext: FORCE_CUDA and FORCE_CPU are both set: unset one of them.")
    try:
        if force_cpu:
            raise toolchain.ToolchainError("FORCE_CPU is set")
        if torch.version.cuda is None:
            raise toolchain.ToolchainError(f"the installed torch {torch.__version__} has no CUDA")
        if isinstance(TOOLKIT, toolchain.ToolchainError):
            raise TOOLKIT
        toolchain.check_toolkit(TOOLKIT, torch.version.cuda)
    except toolchain.ToolchainError as reason:
        if force_cuda:
            raise SystemExit(
                f"segnet_ext: FORCE_CUDA is set, but {reason}: install a torch with CUDA and a CUDA toolkit of the "
                "same major version (point CUDA_HOME at it), or unset FORCE_CUDA to build for the CPU."
            ) from None
        say(f"building for the CPU only: {reason}.")
        return None
    return TOOLKIT


def configured_extension(folder: Path) -> Extension:
    """The extension with its compiler, flags and libraries; sets the environment that torch's BuildExtension reads.

    `folder` is for files that the build makes.
    """
    debug = toolchain.enabled("DEBUG")
    try:
        compiler = toolchain.find_compiler(toolchain.cxx_standard(TORCH_FOLDER))
    except toolchain.ToolchainError as error:
        raise SystemExit(f"segnet_ext: {error}") from None
    os.environ["CXX"] = shlex.join(compiler.command)
    toolkit = choose_toolkit()

    flags = toolchain.cxx_flags(debug, compiler.openmp)
    say(f"torch {torch.__version__} in {TORCH_FOLDER}")
    say(f"compiler {compiler.version}, flags {' '.join(flags)}")
    if not compiler.openmp:
        say("the compiler has no OpenMP: the CPU kernels will run on one thread.")
    if debug:
        say("DEBUG is set: this build is slow.")
    cuda_flags, cuda_macros = {}, []
    if toolkit is not None:
        if os.environ.get("TORCH_CUDA_ARCH_LIST"):
            asked = _get_cuda_arch_flags()
        else:
            built_for = torch._C._cuda_getArchFlags() or ""  # torch.cuda.get_arch_list() is empty where there is no GPU
            asked = toolchain.gencode_flags(toolchain.default_archs(toolkit, built_for.split()))
        try:
            gencode = toolchain.usable_gencode(asked)
        except toolchain.ToolchainError as error:
            raise SystemExit(f"segnet_ext: {error}") from None
        if len(gencode) < len(asked):
            say("the PTX of 7.5 is left out: it has nothing but traps where later GPUs have kernels of their own.")
        archs = toolchain.archs_text(gencode)
        say(f"CUDA {toolkit.version} in {toolkit.root}, architectures {archs}")
        # Flags that name architectures keep torch from adding its own.
        max_jobs = os.environ.get("MAX_JOBS", "")  # torch, too, heeds it only where it is a number
        jobs = int(max_jobs) if max_jobs.isdigit() else os.cpu_count() or 1
        cuda_flags = {"nvcc": [*toolchain.nvcc_flags(debug, compiler.openmp, jobs), *gencode]}
        cuda_macros = [("SEGNET_EXT_WITH_CUDA", None), ("SEGNET_EXT_CUDA_ARCHS", f'"{archs}"')]
    extension = (CUDAExtension if toolkit else CppExtension)(
        NAME,
        toolchain.merged_sources(toolkit is not None, folder),
        include_dirs=[str(toolchain.ROOT / "csrc"), str(toolchain.ROOT / "csrc" / "include")],
        define_macros=[
            ("AT_PER_OPERATOR_HEADERS", None),  # torch's headers then declare the operators that they use, not all
            ("SEGNET_EXT_CXX_FLAGS", f'"{" ".join(flags)}"'),
            ("SEGNET_EXT_PYTHON_VERSION", f'"{platform.python_version()}"'),
            ("SEGNET_EXT_TORCH_VERSION", f'"{torch.__version__}"'),
            *cuda_macros,
        ],
        extra_compile_args={"cxx": flags, **cuda_flags},
        extra_link_args=["-fopenmp"] if compiler.openmp else [],
    )
    if toolkit is not None:
        extension.include_dirs += toolchain.library_includes(TORCH_FOLDER)  # behind the toolkit's own headers
    return extension


class build_ext(BuildExtension):
    def run(self) -> None:
        if not HAS_TORCH:
            raise SystemExit(
                "segnet_ext: torch is not installed, and the extension is built against it: install torch first, or "
                "let `pip install .` bring it (without --no-build-isolation)."
            )
        # Only now, since other commands (sdist, metadata) need no compiler. setuptools has prepared its own Extension
        # object, so that one takes over what torch's has.
        configured = vars(configured_extension(Path(self.build_temp).absolute()))
        self.extensions[0].__dict__.update(
            {name: value for name, value in configured.items() if not name.startswith("_")}
        )
        super().run()


setup(
    ext_modules=[Extension(NAME, toolchain.sources(cuda=False))],
    cmdclass={"build_ext": build_ext},
    install_requires=[backend.torch_requirement(HAS_TORCH), "numpy"],
)
