"""The runner: trains, evaluates and predicts from the betons that the engine exports."""

import os

if __name__ != "slideduck.runner":  # the folder's name is not the package's name
    raise ImportError("import slideduck.runner, not runner (after: pip install -e .)")

# Before torch is imported. Its threads wait for each other by spinning, unless told otherwise; where other
# processes want the same cores, a step of ResNet-18 then took 3 to 10 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
