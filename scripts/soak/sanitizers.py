"""Hostile converted checkpoints through every kernel set, with the kernels under AddressSanitizer and UBSan.

    PYTHONPATH=tests python scripts/soak/sanitizers.py --cases 2000

Builds the CPU kernels with both sanitizers in a cache of its own, and runs `fuzz.py` with them; a finding ends it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from spikeconv.ops import build, native

FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    arguments = parser.parse_args()
    compiler = build.compiler()
    if compiler is None:
        raise SystemExit("there is no C++ compiler")
    with tempfile.TemporaryDirectory(prefix="sanitizers-") as cache:
        os.environ["SPIKECONV_CACHE"] = cache
        library = native._cached("cpu")
        build.build_cpu(library, FLAGS)
        native.note_hash(library)
        names = ("libasan", "libubsan")
        found = [subprocess.check_output([compiler, f"-print-file-name={name}.so"], text=True) for name in names]
        environment = {
            **os.environ,
            "LD_PRELOAD": " ".join(map(str.strip, found)),
            "ASAN_OPTIONS": "detect_leaks=0",
        }
        fuzz = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "--kind", "hostile", "--kind", "converted"]
        limits = ["--cases", str(arguments.cases), "--seconds", "120", "--grow", "2000"]
        raise SystemExit(subprocess.run([*fuzz, *limits], env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
