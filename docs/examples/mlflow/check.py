"""Save a model for MLflow, load it, and compare: ``python docs/examples/mlflow/check.py``. It needs mlflow-skinny."""

import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np

import ort_ops

HERE = Path(__file__).parent
MODEL = HERE.parents[2] / "models" / "digits_mlp.onnx"


def save(folder: Path) -> None:
    """Save the model; by the example MLflow learns what its input is."""
    mlflow.pyfunc.save_model(
        folder,
        python_model=HERE / "served.py",
        artifacts={"model": str(MODEL)},
        pip_requirements=["ort-mylinear"],
        input_example=np.zeros((1, 64), np.float32),
    )


def main() -> int:
    """Return 1 if a number differs from our session's."""
    rows = np.random.default_rng(0).integers(0, 17, (100, 64)).astype(np.float32)
    session = ort_ops.InferenceSession(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "served"))
        got = mlflow.pyfunc.load_model(f"{folder}/served").predict(rows)
    is_right = np.array_equal(got, session.run(None, {"x": rows})[0])
    verdict = "are" if is_right else "ARE NOT"
    print(f"MLflow {mlflow.__version__}: {got.size} numbers {verdict} those of the kernel '{session.kernel}'")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
