"""What judges windows: a bundle's model and all that the bundle says, for all sensors or for those of some groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from stream_detector.criteria import Criteria, criteria_of, grouping_of
from stream_detector.events import Errors, Float32, Model, PartName, gathered
from stream_detector.faults import Limits, limits_of
from stream_detector.groups import Grouped
from stream_detector.novelty import Learner
from stream_detector.ports import Scorer
from stream_detector.sensors import Rules
from stream_detector.settings import Settings
from stream_detector.silence import Heartbeats


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """All that one bundle brings to the pipeline."""

    scorer: Scorer
    model: Model
    rules: Rules
    settings: Settings  # with what the bundle knows
    heartbeats: Heartbeats | None
    learner: Learner | None = None  # of bundles that learn on


class Scorers:
    """`ports.Scorer` of several: each sensor's windows go to its own, those of a batch in one call each."""

    def __init__(self, scorers: Grouped[Scorer]) -> None:
        self.scorers = scorers
        self.features, self.length = scorers.common.features, scorers.common.length

    @property
    def device(self) -> str:
        """See `ports.Scorer.device`; they share one."""
        return self.scorers.common.device

    def load(self) -> None:
        """See `ports.Scorer.load`."""
        for scorer in self.scorers.things:
            scorer.load()

    def warm(self) -> None:
        """See `ports.Scorer.warm`."""
        for scorer in self.scorers.things:
            scorer.warm()

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        """See `ports.Scorer.score`."""
        parts = self.scorers.parted(sensors)
        found = [scorer.score([sensors[at] for at in places], values[places]) for scorer, places in parts]
        return gathered(found).take(np.argsort(np.concatenate([places for _, places in parts])))

    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        """See `ports.Scorer.embed`."""
        parts = self.scorers.parted(sensors)
        found = [scorer.embed([sensors[at] for at in places], values[places]) for scorer, places in parts]
        codes = np.full((len(values), max(some.shape[1] for some in found)), np.nan, np.float32)
        for (_, places), some in zip(parts, found, strict=True):
            codes[places, : some.shape[1]] = some
        return codes

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[PartName]) -> Float32:
        """See `ports.Scorer.expect`."""
        expected = np.empty_like(values)
        for scorer, places in self.scorers.parted(sensors):
            asked = [parts[at] for at in places] if parts else []
            expected[places] = scorer.expect([sensors[at] for at in places], values[places], asked)
        return expected


def scorer_of(judges: Grouped[Judge]) -> Scorer:
    """Scores the windows of all sensors."""
    return judges.common.scorer if len(judges.things) == 1 else Scorers(judges.each(lambda judge: judge.scorer))


def rules_for(judges: Grouped[Judge]) -> Rules:
    """The rules of all sensors: each is known, imputed, and may be silent within a window, as its own bundle says."""
    rules = judges.common.rules
    if len(judges.things) == 1:
        return rules
    known = rules.known
    if known is not None:
        each = [(judge, judge.rules.known or ()) for judge in judges.things]
        known = frozenset(sensor for judge, sensors in each for sensor in sensors if judges.of(sensor) is judge)
    own_gaps = {
        sensor: gap
        for judge in judges.things
        for sensor, gap in judge.rules.own_gaps.items()
        if judges.of(sensor) is judge
    }
    gaps = [judge.rules.max_gap for judge in judges.things]  # of sensors that no training saw
    longest = None if None in gaps else max(gap for gap in gaps if gap is not None)
    own_means = judges.each(lambda judge: judge.rules.means)
    return replace(rules, known=known, max_gap=longest, own_gaps=own_gaps, own_means=own_means)


def criteria_for(judges: Grouped[Judge]) -> Criteria:
    """What is asked of all sensors' windows; what is a fault, and how many alerts there may be, as its bundle says."""
    common, named = judges.common, judges.named()
    judge_of = {name: named.get(name, common) for name in common.settings.groups}
    groups = {name: judge.settings.groups[name] for name, judge in judge_of.items()}

    @cache  # by judge and, where they are not the judge's own, by group
    def limits(judge: Judge, group: str) -> Limits | None:
        return limits_of(judge.rules, judge.settings, groups[group].features if group else None)

    own = [limits(judge, name if groups[name].features else "") for name, judge in judge_of.items()]
    settings = common.settings.model_copy(update={"groups": groups})
    return criteria_of(common.rules, settings, Grouped(grouping_of(settings), limits(common, ""), own))


def heartbeats_for(judges: Grouped[Judge]) -> Grouped[Heartbeats] | None:
    """How long each sensor may be silent, as its own bundle says; None if nobody wants to know."""
    if judges.common.heartbeats is None:
        return None
    return judges.each(lambda judge: judge.heartbeats or Heartbeats())
