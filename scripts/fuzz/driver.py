"""The long run of one target, by hand: guided by coverage with atheris, else by chance.

Finds go to `build/fuzz/<target>/` as files; `scripts/fuzz/run TARGET FILE` feeds one of them again. A run by
chance tells the number it begins with; the same number begins the same run.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import tempfile
import time
from pathlib import Path

from scripts.fuzz.mutation import TOKENS, random_edits, variant

FINDS = Path("build") / "fuzz"


def main(arguments: list[str]) -> int:
    """The exit code: 0 nothing found, 1 a fault, 2 usage."""
    if importlib.util.find_spec("atheris") is not None:
        import atheris

        with atheris.instrument_imports(include=["bundler"]):
            from scripts.fuzz import targets
    else:
        from scripts.fuzz import targets
    if len(arguments) not in (2, 3) or arguments[0] not in targets.TARGETS:
        print(f"usage: scripts/fuzz/run TARGET SECONDS|FILE [NUMBER]\ntargets: {' '.join(targets.TARGETS)}")
        return 2
    target, what = targets.TARGETS[arguments[0]], arguments[1]
    number = int(arguments[2]) if len(arguments) == 3 else random.SystemRandom().randrange(1 << 32)
    if Path(what).is_file():
        print("accepted" if targets.examine(target, Path(what).read_bytes()) else "refused")
        return 0
    print(f"begins with the number {number}", file=sys.stderr)
    if importlib.util.find_spec("atheris") is not None:
        return guided(target, int(what), number)
    print("atheris is not installed: by chance alone", file=sys.stderr)
    return by_chance(target, int(what), number)


def guided(target: targets.Target, seconds: int, number: int) -> int:  # type: ignore[name-defined]  # noqa: F821
    """libFuzzer through atheris; it ends the process by itself, with 77 after a find."""
    import atheris

    from scripts.fuzz.targets import examine

    corpus = Path(tempfile.mkdtemp(prefix="sealift-fuzz-"))
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.with_suffix(".dict")
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS if len(token) < 64))
    finds = FINDS / target.name
    finds.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=65536"]
    options += [f"-seed={number}", f"-dict={words}", f"-artifact_prefix={finds}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: examine(target, data, measured=False))
    atheris.Fuzz()
    return 0


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def by_chance(target: targets.Target, seconds: int, number: int) -> int:  # type: ignore[name-defined]  # noqa: F821
    """Edited seeds until the time is up or the first fault."""
    from scripts.fuzz.targets import examine

    source, seeds = random.Random(number), target.seeds()
    end, runs = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = variant(source.choice(seeds), random_edits(source), source.choice(seeds))
        runs += 1
        try:
            examine(target, data, measured=runs % 4 == 0)
        except BaseException:
            find = FINDS / target.name / f"found-{number}-{runs}"
            find.parent.mkdir(parents=True, exist_ok=True)
            find.write_bytes(data)
            print(f"found: {find}", file=sys.stderr)
            raise
    print(f"{target.name}: {runs} runs, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
