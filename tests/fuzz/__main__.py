"""The long form of the fuzz: ``python -m tests.fuzz --messages 10000000 --seed 1`` (`make fuzz`).

Ends with 1 at the first thing that is not as the rules say, or if memory grew; says how to see it again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tests.fuzz.world import PROFILES, World, Wrong

TELL = 200_000  # messages between two lines
WARM = 0.2  # share of the messages after which memory may not grow …
GROWTH = 48 * 2**20  # … by more bytes than this


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=str(__doc__).partition(":")[0])
    parser.add_argument("--messages", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--profile", choices=PROFILES, default="default", help="settings to run under (default)")
    given = parser.parse_args(arguments)
    world = World(given.seed, given.profile)
    try:
        rss = run(world, given.messages)
    except Exception as error:
        say("" if isinstance(error, Wrong) else traceback.format_exc(), sys.stderr)
        again = f"python -m tests.fuzz --messages {world.source.position} --seed {given.seed} --profile {given.profile}"
        say(f"WRONG after {world.source.position:,} messages: {error}\nagain: {again}", sys.stderr)
        return 1
    finally:
        world.close()
    warm = rss[int(len(rss) * WARM)]
    grown = max(rss[int(len(rss) * WARM) :]) - warm
    say(f"memory: {warm / 2**20:.1f} MiB when warm, at most {grown / 2**20:+.1f} MiB from there")
    if grown > GROWTH:
        say("WRONG: memory grows", sys.stderr)
        return 1
    say(f"all of {world.source.position:,} messages came out as the rules say, each once")
    return 0


def run(world: World, messages: int) -> list[int]:
    """Resident memory over time, bytes."""
    rss, told, started = [resident()], 0, time.monotonic()
    while world.source.position < messages:
        world.turn()
        if world.source.position >= told + TELL:
            told = world.source.position
            rss.append(resident())
            rate, due = told / (time.monotonic() - started), len(world.expected.rejects) + len(world.expected.windows)
            sensors = len(world.expected.time.sensors)
            figures = f"{rate:,.0f}/s, {rss[-1] / 2**20:.1f} MiB, {sensors} sensors, {due:,} due"
            say(f"{told:>12,} messages, {figures}")
    world.end()
    total = world.source.position
    say(f"{total:,} messages, {total / (time.monotonic() - started):,.0f}/s")
    for name, count in (*world.expected.time.counts.items(), *world.expected.reasons.most_common()):
        say(f"  {name:20} {count:>12,}")
    return rss


def say(text: str, stream: TextIO = sys.stdout) -> None:
    stream.write(f"{text}\n")
    stream.flush()


def resident() -> int:
    """This process' memory, bytes. Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
