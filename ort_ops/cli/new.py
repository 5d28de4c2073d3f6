"""`mylinear new`: write the package of an operator of one's own. Needs no torch and no network."""

from __future__ import annotations

import argparse

from ort_ops.console.counts import counted

EXAMPLES = (
    "mylinear new ScaledSum",
    "mylinear new ScaledSum --cuda",
    "mylinear new ScaledSum --update",
    "mylinear new ScaledSum --inputs x,z:optional --attributes a:float=1.0,mode:string=plain --no-cpp",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear new`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the operator, such as ScaledSum")
    parser.add_argument("--domain", help="of the operator in ONNX (default: the package's name)")
    parser.add_argument(
        "--inputs",
        default="x",
        metavar="x,z",
        help="names of the inputs, z:optional for one that may be absent (default: x)",
    )
    parser.add_argument(
        "--attributes",
        default="scale:float=1.0",
        metavar="a:float=1.0,n:int=2",
        help="attributes with their defaults: float, int and string ones, and lists, floats and ints, which are empty "
        "by default; '' for none (default: scale:float=1.0)",
    )
    parser.add_argument("--outputs", default="y", metavar="y,w", help="names of the outputs (default: y)")
    parser.add_argument(
        "--dtypes",
        default="float64,float32,float16,bfloat16",
        metavar="float64,float32",
        help="element types of inputs and outputs, float64 among them (default: float64,float32,float16,bfloat16)",
    )
    parser.add_argument(
        "--cpp",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with a kernel in C++, which needs a compiler (default: yes)",
    )
    parser.add_argument(
        "--cuda",
        action="store_true",
        help="with a kernel in CUDA too: nvcc builds it where it is found, and the tests run it on the CPU",
    )
    parser.add_argument("--folder", help="to write, which must not exist (default: the package's name, here)")
    parser.add_argument(
        "--update",
        action="store_true",
        help="replace the C++ headers of a package by this version's, and change nothing else: of the package that "
        "NAME has here, or that is in --folder (default: this folder)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Write the package, and say what is left to write."""
    from ort_ops.console.report_text import json_text
    from ort_ops.scaffold.attributes import PackageError
    from ort_ops.scaffold.request import read_request
    from ort_ops.scaffold.write import find_package, update_headers, write_package

    if args.update:
        folder = find_package(args.name, args.folder)
        changed = update_headers(folder)
        if args.json:
            print(json_text({"folder": str(folder), "changed": changed}))
        else:
            said = f"{folder}: {counted(len(changed), 'file')} of third_party/mylinear changed"
            print(": ".join([said, *filter(None, [", ".join(changed)])]))
        return 0
    if args.name is None:
        raise PackageError("NAME must be given: that of the operator, such as ScaledSum")
    request = read_request(
        args.name,
        domain=args.domain,
        inputs=args.inputs,
        attributes=args.attributes,
        outputs=args.outputs,
        with_cpp=args.cpp,
        dtypes=args.dtypes,
        with_cuda=args.cuda,
    )
    made = write_package(request, args.folder)
    if args.json:
        found = {"operator": f"{request.domain}::{request.name}", "package": request.module}
        print(json_text({**found, "folder": str(made.folder), "files": made.files, "todo": made.todo}))
        return 0
    print(f"{made.folder}: {request.domain}::{request.name}, an example that is right, in {len(made.files)} files")
    print()
    print(f"  cd {made.folder}")
    print("  pip install -e '.[test]' && python -m pytest")
    print(f"  mylinear check {request.name}")
    print()
    print("left to write, each place marked TODO; README.md has the order:")
    for name, count in made.todo.items():
        print(f"  {name}: {count}")
    return 0
