#!/usr/bin/env python3
"""Follows the README as somebody does who has a copy of this repository: makes a project beside it with the README's
dependency lines, and compiles every program in the README as it stands there. Runs its tests.

    python3 tests/new_user.py [WORD OF A CHECK]...

Uses cargo and git. Crates that are not on this machine are downloaded; the checks are skipped if that fails.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib

sys.dont_write_bytecode = True

import harness
from harness import HOST, Skip, need, wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "new_user")
# What cargo says when it cannot download a crate.
NO_NETWORK = ("failed to download", "download of", "Unable to update registry", "unable to update registry")
# Seconds for one command of cargo, which may have everything to build. Chosen.
LONGEST_COMMAND = 400


def readme():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        return file.read()


def blocks(language):
    """Returns the README's blocks of code in a language."""
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", readme(), re.MULTILINE | re.DOTALL)


def git_line():
    """Returns the README's line that names a repository, and the address in it."""
    line = re.search(r'^# .*?(turnwheel = \{ git = "(.*?)" \})$', readme(), re.MULTILINE)
    assert line, "the README does not show a dependency on a git repository"
    return line[1], line[2]


def manifest(lines):
    """Returns the manifest that `cargo new` writes, with dependency lines, and with the README's table for tests."""
    own = [block for block in blocks("toml") if not block.startswith("[")]
    tables = [block for block in blocks("toml") if block.startswith("[")]
    assert len(own) == 2 and len(tables) == 1, "the README's dependencies"
    own = "\n".join([lines or own[0], own[1]])
    text = f'[package]\nname = "hello"\nversion = "0.1.0"\nedition = "2024"\n\n[dependencies]\n{own}\n'
    text += tables[0] if lines is None else ""
    tomllib.loads(text)
    return text


@contextlib.contextmanager
def project(lines=None):
    """Makes a project beside a link to this repository, with all programs of the README: those with a `main` function
    as programs, the others as modules of the library. `lines` takes the place of the first block of dependencies."""
    with tempfile.TemporaryDirectory(prefix="turnwheel-") as scratch:
        os.symlink(ROOT, os.path.join(scratch, "turnwheel"))
        folder = os.path.join(scratch, "hello")
        os.makedirs(os.path.join(folder, "src", "bin"))
        # The versions that this repository is tested with.
        shutil.copy(os.path.join(ROOT, "Cargo.lock"), folder)
        write(folder, "Cargo.toml", manifest(lines))
        modules = []
        for n, program in enumerate(blocks("rust")):
            if "fn main(" in program:
                write(folder, f"src/bin/program_{n}.rs", program)
            else:
                modules.append(f"mod program_{n};\n")
                write(folder, f"src/program_{n}.rs", program)
        write(folder, "src/lib.rs", "".join(modules))
        yield folder


def write(folder, name, text):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)


def cargo(folder, *words):
    """Runs cargo in a project. Returns what it printed."""
    need("cargo")
    command = ["cargo", *words, "--target-dir", TARGET]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LONGEST_COMMAND, check=False)
    if done.returncode != 0 and any(text in done.stderr for text in NO_NETWORK):
        raise Skip(f"a crate cannot be downloaded: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-3000:]}"
    return done.stdout + done.stderr


def every_program_of_the_readme_compiles_as_it_stands_and_its_tests_pass():
    with project() as folder:
        said = cargo(folder, "test", "--lib", "--bins")
        programs = len(os.listdir(os.path.join(folder, "src", "bin")))
    tests = re.findall(r"^test (\S+) \.\.\. ok$", said, re.MULTILINE)
    assert programs >= 6 and len(tests) == 2, f"{programs} programs, tests that passed: {tests}"
    return f"{programs} programs, {len(tests)} tests"


def a_dependency_on_the_git_repository_builds():
    need("git")
    if not os.path.exists(os.path.join(ROOT, ".git")):
        raise Skip("this copy of the sources is not a git repository")
    line, address = git_line()
    with project(line.replace(address, f"file://{ROOT}")) as folder:
        cargo(folder, "check", "--bins")
    return line


def with_the_logger_of_the_readme_warnings_are_seen_and_a_signal_stops_the_server():
    (program,) = [program for program in blocks("rust") if "env_logger" in program]
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    assert "127.0.0.1:7000" in program
    with project() as folder:
        # The port alone differs: another server may have this one.
        write(folder, "src/main.rs", program.replace("127.0.0.1:7000", f"{HOST}:{port}"))
        cargo(folder, "build", "--bin", "hello")
    logged = {level: log_of_a_run(port, level) for level in (None, "error")}
    assert "WARN" in logged[None] and "connection limit lowered" in logged[None], logged
    assert logged["error"] == "", logged
    return logged[None].strip()


def log_of_a_run(port, level):
    """Starts the server with so few descriptors that it logs a warning, stops it, and returns what it logged."""
    environment = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
    environment |= {"RUST_LOG": level} if level else {}
    command = ["sh", "-c", 'ulimit -n 80; exec "$0"', os.path.join(TARGET, "debug", "hello")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert wait_for(lambda: answers(port)), "the server does not answer"
            server.send_signal(signal.SIGTERM)
            said = server.communicate(timeout=20)[1]
        finally:
            server.kill()
    assert server.returncode == 0, f"exit code {server.returncode}: {said}"
    return said


def answers(port):
    try:
        with socket.create_connection((HOST, port), timeout=10) as client:
            client.sendall(b"hello")
            return client.recv(5) == b"hello"
    except ConnectionRefusedError:
        return False


CHECKS = [
    every_program_of_the_readme_compiles_as_it_stands_and_its_tests_pass,
    with_the_logger_of_the_readme_warnings_are_seen_and_a_signal_stops_the_server,
    a_dependency_on_the_git_repository_builds,
]

if __name__ == "__main__":
    harness.LONGEST_CHECK = 2 * LONGEST_COMMAND
    sys.exit(harness.main(CHECKS, __doc__, programs=()))
