#!/usr/bin/env python3
"""Mutation tests: the simulator or a unit test must detect each mutant, a small mistake in the library.

    python3 tests/mutants.py             # builds one binary with all mutants, and runs each
    python3 tests/mutants.py WORD...     # runs only those with a word in their name
    python3 tests/mutants.py --check     # checks only whether each patch is valid and applies

A mutant is a patch, `tests/mutants/NAME.patch`: a sentence that says what goes wrong, a line `Killed by: the simulator`
or `Killed by: ` and the name of a unit test, and 1 to 8 added lines that check `crate::mutant::is("NAME")`. All patches
are applied to one copy of the sources, in `target/mutants`. The environment variable MUTANT selects the one that runs.
"""

import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True

import harness

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATCHES = os.path.join(ROOT, "tests", "mutants")
TARGET = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "mutants")
TREE = os.path.join(TARGET, "tree")
SIMULATOR = "the simulator"
SIMULATED = "testing::tests::seeds_of_all_kinds"
# How many seeds the simulator has to detect a mutant. Chosen.
SEEDS = 2_000
LONGEST = 300


class Mutant:
    def __init__(self, file):
        self.path = os.path.join(PATCHES, file)
        self.name = file.removesuffix(".patch")
        with open(self.path, encoding="utf-8") as patch:
            self.text = patch.read()
        lines = self.text.splitlines()
        self.sentence = lines[0]
        self.killer = lines[1].removeprefix("Killed by: ")

    def mistakes(self):
        """Yields the errors in the patch itself. Does not check whether it applies."""
        changed = [line for line in self.text.splitlines() if re.match(r"\+(?!\+\+ )|-(?!-- )", line)]
        added = [line for line in changed if line.startswith("+")]
        if not self.sentence.endswith("."):
            yield "its first line is not a sentence"
        if f"\nKilled by: {self.killer}\n" not in self.text:
            yield "its second line does not name what kills it"
        if not 1 <= len(added) <= 8:
            yield f"{len(added)} lines are added, not 1 to 8"
        names = set(re.findall(r'mutant::is\("(\w+)"\)', self.text))
        if names != {self.name}:
            yield f"it checks for {sorted(names)}, not for its own name"

    def apply(self, tree, *options):
        # One line of context is enough to find the place, and allows mutants close to each other.
        command = ["git", "apply", "-C1", "--recount", *options, self.path]
        # The copy may be inside a repository: git must not search for it, or it ignores the patch.
        environment = dict(os.environ, GIT_CEILING_DIRECTORIES=os.path.dirname(tree))
        return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def copy_sources():
    """Makes a fresh copy of the sources. Keeps the modification times, so that unchanged files are not rebuilt."""
    shutil.rmtree(TREE, ignore_errors=True)
    os.makedirs(TREE)
    for name in ("Cargo.toml", "Cargo.lock", "README.md"):
        shutil.copy2(os.path.join(ROOT, name), TREE)
    for name in ("src", "examples", "tests"):
        shutil.copytree(os.path.join(ROOT, name), os.path.join(TREE, name))


def check(mutants):
    """Prints the errors of all patches. Returns how many patches are invalid or do not apply."""
    wrong = 0
    for mutant in mutants:
        mistakes = list(mutant.mistakes())
        done = mutant.apply(TREE, "--check")
        if done.returncode:
            mistakes.append(f"it does not apply: {done.stderr.strip()}")
        for mistake in mistakes:
            print(f"{mutant.name}: {mistake}")
        wrong += bool(mistakes)
    return wrong


def build(mutants):
    """Applies all patches to the copy and builds its unit tests. Returns the path of the binary."""
    for mutant in mutants:
        done = mutant.apply(TREE)
        assert done.returncode == 0, f"{mutant.name} does not apply together with the others: {done.stderr.strip()}"
    shutil.copy(os.path.join(PATCHES, "mutant.rs"), os.path.join(TREE, "src"))
    with open(os.path.join(TREE, "src", "lib.rs"), "a", encoding="utf-8") as lib:
        lib.write("\nmod mutant;\n")
    return harness.unit_tests("--profile", "sim", "--target-dir", TARGET, cwd=TREE)


def run(tests, name, killer):
    """Runs the test with this mutant. Returns whether it passed, and the seed or test that failed."""
    test, seeds = (SIMULATED, SEEDS) if killer == SIMULATOR else (killer, None)
    variables = dict(os.environ, MUTANT=name, SIM_SEEDS=str(seeds)) if seeds else dict(os.environ, MUTANT=name)
    command = [tests, "--exact", test]
    try:
        done = subprocess.run(command, cwd=TREE, env=variables, capture_output=True, text=True, errors="replace",
                              timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        return False, f"stopped after {LONGEST} s"
    assert "running 1 test" in done.stdout, f"{name}: there is no test {test}"
    failed = done.returncode != 0
    seed = re.search(r"^seed \d+: .*", done.stdout, re.MULTILINE)
    said = seed[0][:100] if seed else test
    return not failed, said


def survivors(tests, mutants):
    """Runs each mutant. Returns how many were not detected."""
    alive = 0
    for killer in sorted({mutant.killer for mutant in mutants}):
        passes, said = run(tests, "", killer)
        assert passes, f"fails without a mutant: {said}"
    for mutant in mutants:
        passes, said = run(tests, mutant.name, mutant.killer)
        print(f"{mutant.name}: {'SURVIVES: ' + mutant.sentence if passes else said}", flush=True)
        alive += passes
    return alive


def main(words):
    only_check = "--check" in words
    words = [word for word in words if word != "--check"]
    if any(word.startswith("-") for word in words):
        print(__doc__)
        return 0 if words[0] in ("-h", "--help") else 2
    if shutil.which("git") is None:
        print("mutants: skipped, no git here")
        return 0
    mutants = [Mutant(file) for file in sorted(os.listdir(PATCHES)) if file.endswith(".patch")]
    copy_sources()
    wrong = check(mutants)
    if wrong or only_check:
        print(f"{len(mutants)} mutants, {wrong} invalid")
        return min(wrong, 1)
    chosen = [mutant for mutant in mutants if not words or any(word in mutant.name for word in words)]
    if not chosen:
        print(f"no mutant has {' or '.join(words)} in its name")
        return 1
    alive = survivors(build(mutants), chosen)
    print(f"{len(chosen) - alive} passed, {alive} failed")
    return min(alive, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
