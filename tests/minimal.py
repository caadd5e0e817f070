#!/usr/bin/env python3
"""Compares the echo server with a loop written by hand on mio (`examples/minimal.rs`): the symbols in its binary,
and the system calls per ping.

    cargo build --release --examples
    python3 tests/minimal.py [target/release/examples [WORD OF A CHECK]...]

Uses nm and strace. Skips checks whose tool is missing. `tests/scale.py` also counts instructions, which takes longer.
"""

import contextlib
import os
import re
import signal
import sys
import time

sys.dont_write_bytecode = True

import harness
from harness import Server, Skip, need, receive, run, wait_for

CONNECTIONS = 50
PING = b"p" * 64
SIMULATOR = ("turnwheel::sys::sim", "turnwheel::sys::script", "turnwheel::testing")
# The same modules as file names, which occur in panic messages and debug line tables.
FILES = (b"src/sys/sim", b"src/sys/script", b"src/testing")
READS = r"read|readv|recv|recvfrom|recvmsg"
WRITES = r"write|writev|send|sendto|sendmsg"
WAITS = r"epoll_p?wait2?"


def example(name):
    path = os.path.join(harness.EXAMPLES, name)
    if not os.path.exists(path):
        raise Skip(f"no {path}: run `cargo build --release --examples` first")
    return path


@contextlib.contextmanager
def pinged(server, rounds):
    """Runs the block after each client has sent `rounds` pings and read their echoes, while all are still connected."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(server.connect(timeout=60))) for _ in range(CONNECTIONS)]
        for _ in range(rounds):
            for client in clients:
                client.sendall(PING)
            for client in clients:
                assert receive(client, len(PING)) == PING, "the echo differs"
        yield


def a_ping(count, few, many):
    """Returns the cost of one ping by name: the difference of two runs, which cancels all other costs."""
    less, more = count(few), count(many)
    pings = (many - few) * CONNECTIONS
    return {name: (more[name] - less.get(name, 0)) / pings for name in more}


# ---- System calls

def system_calls(program, rounds):
    """Returns how often a server made each system call."""
    need("strace")
    tried = run(["strace", "-D", "-f", "-c", "-o", "/dev/null", "true"])
    if tried.returncode:
        raise Skip(f"strace cannot trace here: {tried.stderr.decode().strip()}")
    example(program)
    with Server(program, under=["strace", "-D", "-f", "-c", "-o", "SCRATCH/calls"]) as server:
        with pinged(server, rounds):
            os.kill(server.pid, signal.SIGKILL)
            server.process.wait(timeout=10)
        path = os.path.join(server.scratch, "calls")

        def summary():
            with open(path, encoding="ascii") as file:
                return file.read()

        assert wait_for(lambda: os.path.exists(path) and " total" in summary()), "strace wrote no summary"
        rows = [line.split() for line in summary().splitlines() if re.match(r" *\d+\.\d+ ", line)]
        return {row[-1]: int(row[3]) for row in rows if row[-1] != "total"}


def calls_a_ping(program):
    calls = a_ping(lambda rounds: system_calls(program, rounds), 20, 220)
    # Calls made less often than once per hundred pings are not caused by pings.
    return {name: n for name, n in sorted(calls.items()) if n >= 0.01}


def of_kind(calls, kind):
    return sum(n for name, n in calls.items() if re.fullmatch(kind, name))


def told(calls):
    return ", ".join(f"{n:.2f} {name}" for name, n in calls.items())


def a_ping_costs_the_same_system_calls_as_in_a_minimal_loop():
    found = {program: calls_a_ping(program) for program in ("echo", "minimal")}
    for program, calls in found.items():
        detail = f"{program}: {told(calls)}"
        assert abs(of_kind(calls, READS) - 1) < 0.01 and abs(of_kind(calls, WRITES) - 1) < 0.01, detail
        # How many pings one wait returns depends on the clients, but it is at least one.
        assert of_kind(calls, WAITS) <= 1, detail
        others = [name for name in calls if not re.fullmatch(f"{READS}|{WRITES}|{WAITS}", name)]
        assert not others, detail
    return "; ".join(f"{program}: {told(calls)}" for program, calls in found.items())


# ---- The binary

def the_echo_server_contains_no_simulator_code():
    need("nm")
    done = run(["nm", "-C", example("echo")])
    symbols = [line for line in done.stdout.decode(errors="replace").splitlines() if "turnwheel::" in line]
    assert any("turnwheel::reactor::" in line for line in symbols), "no symbols found: the search is broken"
    found = [line for line in symbols if any(module in line for module in SIMULATOR)]
    assert not found, found[:5]
    with open(example("echo"), "rb") as file:
        binary = file.read()
    assert b"src/reactor" in binary, "no file names found: the search is broken"
    named = [name for name in FILES if name in binary]
    assert not named, named
    return f"0 of {len(symbols)} symbols"


# ---- Instructions, for `tests/scale.py`

def instructions(program, rounds):
    """Returns the user-space instructions of a server."""
    need("valgrind")
    under = ["valgrind", "--tool=callgrind", "--callgrind-out-file=SCRATCH/counted"]
    example(program)
    with Server(program, under=under) as server:
        with pinged(server, rounds):
            pass
        # Let the server handle the closed connections before the signal.
        time.sleep(1)
        os.kill(server.pid, signal.SIGINT)
        server.process.wait(timeout=30)
        with open(os.path.join(server.scratch, "counted"), encoding="ascii", errors="replace") as file:
            return {"all": int(re.search(r"^summary: (\d+)", file.read(), re.MULTILINE)[1])}


def instructions_a_ping(program):
    return a_ping(lambda rounds: instructions(program, rounds), 20, 420)["all"]


CHECKS = [
    the_echo_server_contains_no_simulator_code,
    a_ping_costs_the_same_system_calls_as_in_a_minimal_loop,
]

if __name__ == "__main__":
    sys.exit(harness.main(CHECKS, __doc__))
