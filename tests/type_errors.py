"""The type errors of the package and the experiments by mypy: at most `LIMIT`, which only falls.

numba, llvmlite and libraries without types are skipped (pyproject.toml).
"""

from __future__ import annotations

import re
import subprocess
import sys

LIMIT = 0


def main() -> None:
    """Prints mypy's errors where they are more than `LIMIT`, and ends with status 1."""
    command = [sys.executable, "-m", "mypy", "--no-color-output"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
    if "Success" in last:
        count = 0
    elif match := re.search(r"Found (\d+) errors?", last):
        count = int(match[1])
    else:
        sys.exit(f"mypy: {last}")
    if count > LIMIT:
        print(done.stdout)
    print(f"{count} type errors, at most {LIMIT}")
    sys.exit(count > LIMIT)


if __name__ == "__main__":
    main()
