"""Look the locked packages up in the index of known vulnerabilities, where that index answers.

What is found is printed; with ``--strict`` it also fails, which a build of unchanged code should not."""

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"


def main() -> int:
    words = ["--requirement", str(LOCK), "--no-deps", "--disable-pip", "--timeout", "5", "--progress-spinner", "off"]
    command = [sys.executable, "-m", "pip_audit", *words, "--format", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("packages not audited: the index of vulnerabilities does not answer")
        return 0
    known = [one for one in packages if "vulns" in one]
    found = [(one["name"], one["version"], flaw["id"]) for one in known for flaw in one["vulns"]]
    for name, version, flaw in found:
        print(f"vulnerable: {name} {version}: {flaw}")
    print(f"{len(known)} of {len(packages)} packages audited, {len(found)} vulnerabilities")
    return 1 if found and "--strict" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
