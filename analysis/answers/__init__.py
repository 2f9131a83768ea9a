"""From a frame of runs to an answer: the best setting, how sure that is, what matters, what it costs, what to try next.

Input: what `load_runs` returned. Output: an `Answer`, whose sentence and table people read. `analysis.stats` has the
statistics; `gptopt results` is the command.

    from analysis import load_runs
    from analysis.answers import answer

    found = answer(load_runs("outputs"))
    print(found.sentence())
    found.table()
"""

from analysis.answers.answer import Answer, answer
from analysis.answers.compare import Comparison, Pair, compare, ranked
from analysis.answers.cost import Reach, ToTarget, pareto, reach, time_to_target
from analysis.answers.edges import Edge, edges
from analysis.answers.fates import fates
from analysis.answers.importance import importance
from analysis.answers.metric import direction, find_metric, metric_columns, usual_metric
from analysis.answers.settings import Setting, settings

__all__ = [
    "Answer",
    "Comparison",
    "Edge",
    "Pair",
    "Reach",
    "Setting",
    "ToTarget",
    "answer",
    "compare",
    "direction",
    "edges",
    "fates",
    "find_metric",
    "importance",
    "metric_columns",
    "pareto",
    "ranked",
    "reach",
    "settings",
    "time_to_target",
    "usual_metric",
]
