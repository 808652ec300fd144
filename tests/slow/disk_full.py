"""Fill the disk at 20 different points of an extraction, and cause the other faults of tests.faults.trouble.

Checks the exit code, the message, what ``verify`` finds, and the store after a second run without the fault.

python -m tests.slow.disk_full [POINTS]
"""

from __future__ import annotations

import sys

from tests.faults.trouble import run

if __name__ == "__main__":
    cases = run(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    for case in cases:
        state = "as uninterrupted" if case["equal"] else "DIFFERENT"
        print(
            f"{case['case']:40} exit {case['code']}  verify: {len(case['verify'])} problems  then {state}  {case['line']}"
        )
    bad = [case for case in cases if case["code"] not in (0, 1) or case["verify"] or not case["equal"]]
    print(f"{len(cases)} cases, {len(bad)} bad")
    sys.exit(1 if bad else 0)
