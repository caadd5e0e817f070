#!/usr/bin/env python3
"""Measures how the loop scales with the number of connections, and prints Markdown tables: memory and nanoseconds,
which depend on the machine, and instructions counted by valgrind, which do not.

    python3 tests/scale.py             # builds; takes some minutes and half a gigabyte
    python3 tests/scale.py 1000 10000  # other numbers of connections

The connections are simulated (`src/testing/tests/scale.rs`). Each figure is for the reactor alone: the share of the
simulated system is subtracted. All timeouts are on. The last table has the cost of a ping of real clients to the echo
server and to a minimal loop written by hand. Without valgrind only the first table is printed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

import harness
import minimal

TEST = "testing::tests::scale::scale"
SIZES = [1_000, 10_000, 100_000, 1_000_000]
LEAST_EVENTS = 200_000
# Seconds. A longer run under valgrind counts as stuck. Chosen.
LONGEST = 900


def build():
    """Builds the tests and the example servers in release mode. Returns the path of the tests."""
    subprocess.run(["cargo", "build", "--release", "--examples", "--quiet"], check=True)
    return harness.unit_tests("--release")


def run_test(tests, under=(), **variables):
    command = [*under, tests, TEST, "--exact", "--ignored", "--nocapture"]
    environment = dict(os.environ, **{name: str(value) for name, value in variables.items()})
    done = subprocess.run(command, env=environment, capture_output=True, timeout=LONGEST, check=False)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0 and "1 passed" in output, output + done.stderr.decode(errors="replace")
    return output


# ---- Instructions

def counted(tests, until, connections, rounds=0, bare=False):
    """Returns the instructions of one run of the simulation."""
    variables = {"CROWD_RUN": until, "CROWD_CONNECTIONS": connections, "CROWD_ROUNDS": rounds}
    if bare:
        variables["CROWD_BARE"] = 1
    with tempfile.TemporaryDirectory(prefix="turnwheel-") as scratch:
        path = os.path.join(scratch, "counted")
        run_test(tests, ("valgrind", "--tool=callgrind", f"--callgrind-out-file={path}"), **variables)
        with open(path, encoding="ascii", errors="replace") as file:
            return int(re.search(r"^summary: (\d+)", file.read(), re.MULTILINE)[1])


def accepting(tests, connections):
    return counted(tests, "accept", connections) - counted(tests, "accept", connections, bare=True)


def instructions(tests, sizes):
    """Returns the rows of the second table, and the instructions per event by number of connections."""
    rows, an_event = [], {}
    fewer, before = 1, accepting(tests, 1)
    for n in sizes:
        rounds = max(2, LEAST_EVENTS // n)
        events = rounds * n
        accepts = {bare: counted(tests, "accept", n, bare=bare) for bare in (False, True)}
        pings = {bare: counted(tests, "ping", n, rounds, bare=bare) for bare in (False, True)}
        both, world = ((pings[bare] - accepts[bare]) / events for bare in (False, True))
        # One round less, because the run that checks the timeouts starts with a round of its own.
        checks = counted(tests, "check", n, rounds - 1)
        ends = counted(tests, "end", n, rounds - 1)
        accept = accepts[False] - accepts[True]
        an_event[n] = both - world
        rows.append([
            f"{n}", f"{both - world:.0f}", f"{both:.0f}", f"{world:.0f}", f"{(accept - before) / (n - fewer):.0f}",
            f"{(checks - pings[False]) / n:.0f}", f"{(ends - checks) / n:.0f}",
        ])
        fewer, before = n, accept
        print(f"counted with {n} connections", file=sys.stderr, flush=True)
    return rows, an_event


def with_timers(tests, connections):
    """Returns the instructions per event, simulated system included, without and with a timer for each connection."""
    rounds = max(2, LEAST_EVENTS // connections)
    cost = lambda kind: (counted(tests, f"{kind}ping", connections, rounds)
                         - counted(tests, f"{kind}accept", connections)) / (rounds * connections)
    return cost(""), cost("alarmed-")


def table(heads, rows):
    for row in [heads, ["---"] * len(heads), *rows]:
        print(f"| {' | '.join(row)} |")


def main():
    if sys.argv[1:] and not all(word.isdecimal() for word in sys.argv[1:]):
        print(__doc__)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    sizes = sorted({int(word) for word in sys.argv[1:]} or SIZES)
    tests = build()
    harness.EXAMPLES = os.path.join(os.path.dirname(tests), "..", "examples")
    print("Resident bytes per connection, and nanoseconds (medians of 7):\n")
    heads, rows = None, []
    for n in sizes:
        # Each in its own process: reused memory would not show in the resident size.
        lines = [line for line in run_test(tests, CROWD_CONNECTIONS=n).splitlines() if line.startswith("| ")]
        heads, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
        rows.append(row)
    table(heads, rows)
    if shutil.which("valgrind") is None:
        print("\nInstructions: skipped, no valgrind here")
        return 0
    rows, an_event = instructions(tests, sizes)
    print("\nInstructions. The figure for an accept is the average of the accepts beyond those of the row above:\n")
    table(["connections", "an event, reactor alone", "reactor and simulation", "simulation alone", "an accept",
           "a re-check", "a close by timeout"], rows)
    print(f"\nAn event with {sizes[-1]} connections takes {an_event[sizes[-1]] / an_event[sizes[0]]:.3f} times the "
          f"instructions of one with {sizes[0]}.")
    without, armed = with_timers(tests, min(sizes[-1], 100_000))
    print(f"\nAn event takes {without:.0f} instructions, simulation included, and {armed:.0f} if each of "
          f"{min(sizes[-1], 100_000)} connections has a timer that has not expired.")
    print(f"\nUser-space instructions per ping with {minimal.CONNECTIONS} real clients:\n")
    pings = {program: f"{minimal.instructions_a_ping(program):.0f}" for program in ("echo", "minimal")}
    table(list(pings), [list(pings.values())])
    return 0


if __name__ == "__main__":
    sys.exit(main())
