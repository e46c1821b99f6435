"""Asks knee from Python: a table of configurations over latency targets, for a notebook or a script.

    pip install knee            # or have the program `knee` on the PATH
    python examples/from_python.py

`knee --json` prints one JSON object on standard output; its keys are those of the schemas in tests/schemas. In a
notebook, run the cell and call `answers(...)`; `pandas.DataFrame(answers(...))` makes a table of it.
"""

import json
import os
import subprocess

KNEE = os.environ.get("KNEE", "knee")


def ask(*words):
    """The answer of one command as a dictionary; a refusal is an error with its reason."""
    done = subprocess.run([KNEE, *words, "--json"], capture_output=True, text=True)
    # 2: nothing holds the targets, which is an answer, too.
    if done.returncode not in (0, 2):
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def answers(targets, *words):
    """What each target leaves of capacity: a row for each."""
    rows = []
    for target in targets:
        told = ask("tune", "--slo", target, *words)
        best = told["best"] or {}
        interval = told["confidence"] or {}
        rows.append(
            {
                "target": target,
                "requests/s": best.get("capacity_rps"),
                "low": interval.get("low_rps"),
                "high": interval.get("high_rps"),
                "$/M output tokens": best.get("usd_per_million_tokens"),
                "configuration": best.get("label", "nothing holds it"),
            }
        )
    return rows


if __name__ == "__main__":
    rows = answers(["ttft=200ms", "ttft=1s"], "--requests", "200", "--policy", "chunked", "--max-seqs", "64")
    print("\t".join(rows[0]))
    for row in rows:
        print("\t".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
