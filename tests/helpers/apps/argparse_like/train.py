"""Has arguments, and no Hydra."""

import argparse
import json
from pathlib import Path

import gpt_opt


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["parabola", "line"], help="what it descends")
    parser.add_argument("-l", "--learning-rate", dest="lr", type=float, default=0.1, help="step size")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 2.0], help="one for each coordinate")
    parser.add_argument("--note", default="")
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    step, x = json.loads(given.resume.read_text()) if given.resume else (0, sum(given.weights))
    given.output_dir.mkdir(parents=True, exist_ok=True)
    while step < given.steps:
        step, x = step + 1, x - given.lr * 2 * x
        gpt_opt.report(step=step, loss=x * x)
        (given.output_dir / "last.pt").write_text(json.dumps([step, x]))


if __name__ == "__main__":
    main()
