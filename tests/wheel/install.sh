#!/usr/bin/env bash
# install.sh ENVIRONMENT FOLDER: installs the sources in FOLDER as the README says, as a package and then editable, without
# CUDA and for this machine's instruction set only (the wheel has them all), and tests each install from another folder.
# ENVIRONMENT is a virtual environment with torch.
set -euo pipefail
environment=$(realpath "$1") sources=$(realpath "$2") here=$(realpath "$(dirname "$0")")
python=$environment/bin/python
export CMAKE_ARGS="-DMLLOSS_CUDA=OFF -DMLLOSS_NATIVE=ON" PATH=$environment/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
cd "$sources"
"$python" -m pip install --quiet pybind11 cmake ninja setuptools
for how in "." "-e ."; do
  echo "== pip install --no-build-isolation $how, in \"$(basename "$(dirname "$sources")")\""
  # shellcheck disable=SC2086  # $how may be two words
  "$python" -m pip install --quiet --no-build-isolation --no-deps $how
  editable=$([ "$how" = "." ] || echo --editable)
  # shellcheck disable=SC2086
  (cd / && "$python" -I "$here/smoke.py" $editable)
  "$python" -m pip uninstall --quiet --yes mlloss-cuda
done
