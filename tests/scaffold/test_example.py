"""The example operator is right for other numbers of inputs, attributes and outputs, and for names that others use."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.promises.check import check_operator
from exporter.promises.description import description_promises
from exporter.promises.kernels import kernel_promises
from exporter.promises.result import OperatorCheck
from exporter.promises.subject import Subject
from ort_ops.scaffold.request import read_request
from tests.scaffold.packages import imported

SIZES = [(1, 0, 3), (2, 1, 1), (5, 4, 2)]


@pytest.mark.parametrize(("num_inputs", "num_attributes", "num_outputs"), SIZES)
def test_any_number_of_each_is_right(num_inputs: int, num_attributes: int, num_outputs: int, tmp_path: Path) -> None:
    request = read_request(
        f"Sized{num_inputs}By{num_attributes}By{num_outputs}",
        inputs=",".join(f"x{i}" for i in range(num_inputs)),
        attributes=",".join(f"a{i}:{('float', 'int')[i % 2]}={i + 1}" for i in range(num_attributes)),
        outputs=",".join(f"y{i}" for i in range(num_outputs)),
        with_cpp=False,
    )
    with imported(request, tmp_path) as kit:
        subject = Subject(kit)
        found = OperatorCheck("it", (*description_promises(subject), *kernel_promises(subject, None)))
        found.check()


@pytest.mark.long
def test_names_that_torch_or_python_use_are_right(tmp_path: Path) -> None:
    request = read_request(
        "ReLU6Like",
        domain="my-company.ops",
        inputs="input,type,weight:optional,bias:optional",
        attributes="training:float=-2,parameters:int=3,list:ints,mode:string=negated,size:floats",
        outputs="values,grad",
        with_cpp=False,
    )
    with imported(request, tmp_path):
        check_operator("my-company.ops::ReLU6Like", compile_backend=None).check()
