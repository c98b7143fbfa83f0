"""`make chaos`: the histories for as long as one likes, each with a seed of its own. Exit code 1 if any one broke.

python -m tests.chaos --minutes 60 --seed 1
python -m tests.chaos --only "zombies" --seed 17 --runs 1      # repeat one
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace

from tests.chaos.faults import Outcome, Scenario
from tests.chaos.scenarios import BROKER, PROTECTED, SCENARIOS, perform
from tests.servers import KafkaBroker

Run = tuple[Scenario, int]
EVERY = SCENARIOS | PROTECTED


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    chosen = [EVERY[name] for name in args.only or EVERY]
    until = time.monotonic() + 60 * args.minutes
    begun, deaths, cases = time.monotonic(), Counter[str](), Counter[str]()
    done, failed = 0, list[Run]()
    with KafkaBroker(BROKER, lasting=True) as broker, ThreadPoolExecutor(args.parallel) as pool:
        runs: Iterator[Run] = (
            (replace(scenario, kills=scenario.kills * args.kills), args.seed + at)
            for at in range(args.runs or sys.maxsize)
            for scenario in chosen
        )
        going: dict[Future[Outcome], Run] = {}
        while True:
            while len(going) < args.parallel and (args.runs or time.monotonic() < until):
                run = next(runs, None)
                if run is None:
                    break
                going[pool.submit(perform, *run, broker.bootstrap)] = run
            if not going:
                break
            for ended in wait(going, return_when=FIRST_COMPLETED).done:
                run = going.pop(ended)
                done += 1
                try:
                    outcome = ended.result()
                except Exception as error:
                    print(f"{type(error).__name__}: {error}", flush=True)
                    failed.append(run)
                    continue
                print(outcome, flush=True)
                deaths, cases = deaths + outcome.deaths, cases + outcome.cases
                if outcome.problems:
                    failed.append(run)
        broker.kill()  # nobody needs an orderly end
    print(f"{done} histories in {(time.monotonic() - begun) / 60:.0f} minutes, {len(failed)} failed")
    print("deaths:", ", ".join(f"{name} {count}" for name, count in deaths.most_common()))
    print("partitions found:", ", ".join(f"{name} {count}" for name, count in cases.most_common()))
    for scenario, seed in failed:
        print(f"again: make chaos ARGS='--only \"{scenario.name}\" --seed {seed} --runs 1 --kills {args.kills}'")
    return 1 if failed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="start no further history after so many (default 10)")
    parser.add_argument("--runs", type=int, default=0, help="so many seeds instead, however long it takes")
    parser.add_argument("--seed", type=int, default=1, help="the first one (default 1)")
    parser.add_argument("--parallel", type=int, default=4, help="histories side by side (default 4)")
    parser.add_argument("--kills", type=int, default=1, help="so many times as many deaths a history (default 1)")
    parser.add_argument("--only", action="append", choices=EVERY, metavar="NAME", help=" | ".join(EVERY))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
