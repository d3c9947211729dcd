"""Pass torch's folders to CMake, which describes the build, and declare the extensions that it builds."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def folder_of(package: str) -> Path:
    """Return the folder in which a package is installed, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"mlloss_cuda: building needs {package}. Install it first, and pass --no-build-isolation "
            "so that pip uses the one you have."
        )
    return Path(spec.origin).parent


def cmake_paths() -> list[str]:
    """Return the CMake definitions that locate torch and, if it is installed, the nvcc from pip."""
    torch = folder_of("torch")
    hints = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin"))
    return [
        f"-DMLLOSS_TORCH_INCLUDE={torch / 'include'}",
        f"-DMLLOSS_TORCH_LIB={torch / 'lib'}",
        f"-DMLLOSS_NVCC_HINTS={';'.join(map(str, hints))}",
    ]


class CMakeBuild(build_ext):
    """One CMake build for all extensions; each is then copied to where setuptools expects it."""

    def run(self) -> None:
        pybind11 = folder_of("pybind11")
        build = ROOT / "build" / "native"  # kept between builds, so that the next one is short
        cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or "cmake"
        configure = [
            *(cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            *("-UCMAKE_CUDA_ARCHITECTURES", "-UMLLOSS_CUDA", "-UMLLOSS_NATIVE"),  # drop the previous build's values
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11 / 'share/cmake/pybind11'}",
            *cmake_paths(),
        ]
        ninja = shutil.which("ninja", path=str(Path(sys.executable).parent)) or shutil.which("ninja")
        if ninja:
            configure.append(f"-DCMAKE_MAKE_PROGRAM={ninja}")
        # CMAKE_ARGS, as other CMake-built packages read it; CMake itself reads CUDAARCHS and CUDACXX.
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        subprocess.run(configure, check=True)
        # Link again, so that a library of an earlier configuration is not taken for this one's.
        for library in build.glob("_*.so"):
            library.unlink()
        subprocess.run([cmake, "--build", str(build)], check=True)
        self.made = build
        super().run()

    def build_extension(self, ext: Extension) -> None:
        made = self.made / f"{ext.name.rpartition('.')[2]}.so"
        target = Path(self.get_ext_fullpath(ext.name))
        if made.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made, target)
        elif not ext.optional:
            raise SystemExit(f"mlloss_cuda: CMake made no {made.name}")
        else:
            # A library of an earlier build must not be taken for this one's.
            for stale in target.parent.glob(f"{made.stem}.*so"):
                stale.unlink()


if sys.argv[1:] == ["--print-cmake-paths"]:  # for `make test-emulated`, which configures a build of its own
    print(*cmake_paths())
    sys.exit()

setup(
    ext_modules=[
        Extension("mlloss_cuda._C", sources=[]),
        Extension("mlloss_cuda._cpu", sources=[]),
        Extension("mlloss_cuda._cuda", sources=[], optional=True),  # built if nvcc is found
    ],
    cmdclass={"build_ext": CMakeBuild},
)
