"""Run the recipes of benchmarks/configs on real data and print their verdicts and times.

Needs TEMPER_DATA: a folder with mnist.npz, cifar10.npz, gtsrb32.npz, weights/resnet20.pt
and weights/resnet_2b.onnx.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
TEMPER = Path(sys.executable).with_name("temper")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"default: {', '.join(names)}")
    recipes = parser.parse_args().recipes or names
    if "TEMPER_DATA" not in os.environ:
        parser.error("TEMPER_DATA is not set, expected the folder of the datasets")
    worst = 0
    for name in recipes:
        command = "evaluate" if name.endswith("-evaluate") else "harden"
        started = time.monotonic()
        done = subprocess.run([TEMPER, command, CONFIGS / f"{name}.yaml"], check=False)
        minutes = (time.monotonic() - started) / 60
        print(f"{name}: exit code {done.returncode}, {minutes:.1f} min\n", flush=True)
        worst = max(worst, done.returncode if done.returncode > 1 else 0)
    return worst


if __name__ == "__main__":
    sys.exit(main())
