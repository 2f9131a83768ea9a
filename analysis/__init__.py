"""What came out: run directories read into pandas, one table and one figure.

Input: run directories (`outputs/`), finished or not, written by `gpt_opt.run`. Output: tidy DataFrames, `summary.csv`
and `curves.png`. It is the last stage; it reads files only, so it works on a copy of them on a laptop as well.

    from analysis import load_metrics, load_runs

    runs = load_runs("outputs")
    runs.groupby("loss.beta")["eval/rewards/accuracies"].mean()
"""

from analysis.load import load_metrics, load_runs

__all__ = ["load_metrics", "load_runs"]
