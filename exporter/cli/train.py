"""`mylinear train`: learn from the linear example, an example of scikit-learn, or a file."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.training.options import (
    DEFAULTS,
    DTYPES,
    ENGINES,
    LOGS,
    OLD_NAMES,
    OPTIMIZERS,
    OptionError,
    TrainingOptions,
    default_options,
)
from ort_ops.console.progress import progress

if TYPE_CHECKING:
    from exporter.training.checkpoints.checkpoint import Checkpoint
    from exporter.training.loop import TrainingInterrupted
    from exporter.training.run import Problem

DEFAULT_FOLDER = "mylinear-train"
PROBLEMS = ("linear", "digits", "diabetes")
TASKS = ("regression", "classification")
FILLS = ("mean",)

_INTERRUPTED = 130
_DATA_SUFFIXES = (".csv", ".npz", ".tsv", ".txt")
_TABLE_OPTIONS = ("features", "ignore", "categorical")


EXAMPLES = (
    "mylinear train linear",
    "mylinear train --data houses.csv --target price --hidden 64,64",
    "mylinear train --resume",
    "mylinear train digits --log tensorboard --log mlflow",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; the defaults are the problem's own, or those of the resumed checkpoint."""
    parser.description = (
        "Train on the linear example, y = 2 x0 + 3 x1 + 4 (linear), on an example of scikit-learn (digits, diabetes), "
        "or on a file."
    )
    parser.epilog = "In several processes: torchrun --nproc-per-node 2 --no-python -- mylinear train ..."
    parser.add_argument(
        "problem",
        nargs="?",
        type=_problem,
        metavar="problem",
        help=f"{', '.join(PROBLEMS)}, or a file, as --data has it",
    )
    parser.add_argument("--data", metavar="FILE", help="CSV with a header, or NPZ with arrays x and y")
    parser.add_argument("--target", metavar="COLUMN", help="the CSV column to predict")
    parser.add_argument("--task", choices=TASKS, help="what a file's target is (default: seen from the values)")
    table = parser.add_argument_group("columns of a CSV file (names separated by commas; options may be repeated)")
    table.add_argument(
        "--features",
        action="append",
        metavar="COLUMNS",
        help="those to learn from, in this order (default: all others)",
    )
    table.add_argument("--ignore", action="append", metavar="COLUMNS", help="those to leave out")
    table.add_argument(
        "--categorical", action="append", metavar="COLUMNS", help="those of text; each text becomes an input, 0 or 1"
    )
    table.add_argument(
        "--fill",
        choices=FILLS,
        help="what stands for missing numbers: the mean of the rows to train on (default: refuse)",
    )
    defaults = DEFAULTS["file"]
    shape = parser.add_argument_group("network")
    hidden = ",".join(map(str, defaults.hidden))
    shape.add_argument(
        "--hidden", type=_sizes, metavar="SIZES", help=f"hidden layers such as {hidden}, or none (default {hidden})"
    )
    shape.add_argument("--dtype", choices=DTYPES, help=f"of parameters and inputs (default {defaults.dtype})")
    how = parser.add_argument_group("training (the defaults of linear and diabetes differ)")
    how.add_argument("--epochs", type=int, metavar="N", help=f"in all (default {defaults.epochs})")
    how.add_argument("--batch-size", type=int, metavar="ROWS", help=f"rows per step (default {defaults.batch_size})")
    how.add_argument("--optimizer", choices=OPTIMIZERS, help=f"(default {defaults.optimizer})")
    how.add_argument("--lr", type=float, metavar="RATE", help=f"learning rate (default {defaults.lr:g})")
    how.add_argument("--momentum", type=float, metavar="M", help=f"of sgd (default {defaults.momentum:g})")
    how.add_argument("--weight-decay", type=float, metavar="W", help=f"(default {defaults.weight_decay:g})")
    how.add_argument("--validation", type=float, metavar="FRACTION", help=f"(default {defaults.validation:g})")
    how.add_argument("--seed", type=int, metavar="N", help=f"(default {defaults.seed})")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), help=f"(default {defaults.device})")
    how.add_argument("--engine", choices=ENGINES, help=f"what computes the steps (default {defaults.engine})")
    parser.add_argument("--output", default=DEFAULT_FOLDER, metavar="DIR", help="folder (default ./%(default)s)")
    logging = parser.add_argument_group("logs (extras tensorboard and mlflow)")
    logging.add_argument(
        "--log", action="append", choices=LOGS, help="show the training in this tool too; may be repeated"
    )
    logging.add_argument(
        "--log-dir",
        metavar="DIR",
        help="for tensorboard/ and mlruns/ (default: the output folder; MLflow heeds MLFLOW_TRACKING_URI)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")


def run(args: argparse.Namespace) -> int:
    """Train, write checkpoint and loss curve, print a summary, and return the exit status. Raises: MylinearError.

    Under torchrun, its processes train one network together; rank 0 alone writes and prints.
    """
    _check_combinations(args)
    from exporter.training.checkpoints.checkpoint import CHECKPOINT_NAME, load_checkpoint
    from exporter.training.distributed import may_write
    from ort_ops.files.folder_lock import lock_folder

    problem = _load_problem(args)
    folder = Path(args.output)
    with ExitStack() as stack:
        if args.resume and folder.is_dir() and may_write():
            # Before the checkpoint is read, so that nobody writes a newer one.
            stack.enter_context(lock_folder(folder, "training"))
        checkpoint = load_checkpoint(folder / CHECKPOINT_NAME) if args.resume else None
        return _train_together(args, problem, _options(args, checkpoint), checkpoint)


def _train_together(
    args: argparse.Namespace, problem: Problem, options: TrainingOptions, checkpoint: Checkpoint | None
) -> int:
    from exporter.training.distributed import joined
    from exporter.training.loop import TrainingInterrupted, check_processes, train, training_device
    from exporter.training.resume import check_resume
    from exporter.training.run import TrainingError
    from ort_ops.files.atomic import make_folder
    from ort_ops.files.folder_lock import lock_folder

    if checkpoint is not None:
        check_resume(checkpoint, problem.describe(), options)
    with joined(training_device(options).type) as processes:
        check_processes(options, processes)
        if processes.is_writer:
            with lock_folder(make_folder(args.output), "training"):  # before anything is printed about the training
                return _train_and_tell(args, problem, options, checkpoint, processes.count)
        try:
            train(problem, options, resume=checkpoint)
        except TrainingInterrupted:
            return _INTERRUPTED
        except TrainingError:  # rank 0 has it too, and reports it
            return 2
        return 0


def _train_and_tell(
    args: argparse.Namespace,
    problem: Problem,
    options: TrainingOptions,
    checkpoint: Checkpoint | None,
    num_processes: int,
) -> int:
    from exporter.cli.train_summary import print_plan, print_result
    from exporter.training.loop import TrainingInterrupted, train
    from exporter.training.run import count_steps

    print_plan(problem, options, checkpoint)
    if num_processes > 1:
        print(f"processes {num_processes}, each with its part of every batch", flush=True)
    try:
        with progress("training", count_steps(problem, options)) as line:
            if options.engine == "onnxruntime":
                line.update(0, "exporting the step")

            def show(done: int, loss: float) -> None:
                line.update(done, f"loss {loss:.4g}")

            result = train(
                problem,
                options,
                folder=args.output,
                resume=checkpoint,
                on_step=show,
                log=args.log or (),
                log_folder=args.log_dir,
            )
    except TrainingInterrupted as interrupt:
        print(_interrupt_message(args, interrupt), file=sys.stderr)
        return _INTERRUPTED
    print_result(problem, result, Path(args.output))
    return 0


def _check_combinations(args: argparse.Namespace) -> None:
    """Take a file for --data, and raise OptionError for options that do not fit together."""
    if args.problem is not None and args.problem not in PROBLEMS and args.data is None:
        args.problem, args.data = None, args.problem
    if args.problem is None and args.data is None:
        raise OptionError(f"say what to train on: {', '.join(PROBLEMS)}, or --data FILE --target COLUMN")
    if args.problem is not None and args.data is not None:
        raise OptionError(f"{args.problem} and --data {args.data} are two things to train on; leave one out")
    if args.data is None:
        for name in ("target", "task", *_TABLE_OPTIONS, "fill"):
            if getattr(args, name) is not None:
                raise OptionError(f"--{name} is about a file; it needs --data FILE")
    if args.log_dir is not None and args.log is None:
        raise OptionError("--log-dir is for logs; it needs --log tensorboard or --log mlflow")
    if args.problem == "linear":
        for name in ("hidden", "validation"):
            if getattr(args, name) is not None:
                raise OptionError(f"--{name} does not go with linear, which is one layer and has no fixed rows")


def _load_problem(args: argparse.Namespace) -> Problem:
    from exporter.training.data import dataset as data
    from exporter.training.data.column_choice import ColumnChoice
    from exporter.training.data.files import load_data
    from exporter.training.data.linear_example import LinearExample

    if args.data is not None:
        choice = ColumnChoice(
            features=None if args.features is None else tuple(args.features),
            ignore=tuple(args.ignore or ()),
            categorical=tuple(args.categorical or ()),
            fill=args.fill,
        )
        return load_data(args.data, args.target, args.task, choice)
    if args.problem == "linear":
        return LinearExample()
    return data.load_digits() if args.problem == "digits" else data.load_diabetes()


def _options(args: argparse.Namespace, checkpoint: Checkpoint | None) -> TrainingOptions:
    """Return the given options, over the checkpoint's or the problem's defaults."""
    given: dict[str, Any] = {
        field.name: getattr(args, field.name)
        for field in fields(TrainingOptions)
        if getattr(args, field.name, None) is not None
    }
    if checkpoint is not None:
        base = checkpoint.options
    else:
        base = default_options(args.problem or "file", given.get("optimizer"))
    options = replace(base, **given)
    if "momentum" in given and options.optimizer != "sgd":
        raise OptionError(f"--momentum is for --optimizer sgd, and this is {options.optimizer}")
    return options


def _problem(text: str) -> str:
    """Take a problem's name, also an old one, or a file."""
    text = OLD_NAMES.get(text, text)
    if text in PROBLEMS or Path(text).suffix.lower() in _DATA_SUFFIXES or Path(text).exists():
        return text
    raise argparse.ArgumentTypeError(f"invalid choice: '{text}' (choose from {', '.join(PROBLEMS)}, or name a file)")


def _sizes(text: str) -> tuple[int, ...]:
    """Read ``64,32``, or ``none``."""
    if text.strip().lower() == "none":
        return ()
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"must be sizes such as 64,32, or none, got '{text}'")
    return sizes


def _interrupt_message(args: argparse.Namespace, interrupt: TrainingInterrupted) -> str:
    message = f"mylinear: {interrupt}; "
    if interrupt.saved_epoch is None:
        return message + "there is no checkpoint of this training yet"
    command = ["mylinear", "train"]
    for name in ("problem", "data", "target", "task", *_TABLE_OPTIONS, "fill", "epochs", "device"):
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None:
                command += [str(value)] if name == "problem" else [f"--{name}", str(value)]
    if args.output != DEFAULT_FOLDER:
        command += ["--output", args.output]
    for name in args.log or ():
        command += ["--log", name]
    if args.log_dir is not None:
        command += ["--log-dir", args.log_dir]
    message += f"the checkpoint of epoch {interrupt.saved_epoch} is in '{interrupt.checkpoint}'\n"
    return message + f"go on with: {shlex.join([*command, '--resume'])}"
