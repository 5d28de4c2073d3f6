"""Checkpoints and the files beside them: whole or not there, checked when read.

Long because the ways in which a file can be damaged are one table.
"""

from __future__ import annotations

import errno
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.training.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_network,
    save_checkpoint,
)
from exporter.training.data.dataset import load_diabetes
from exporter.training.loop import train
from exporter.training.options import TrainingOptions
from ort_ops.files.atomic import OutputError, make_folder, write_atomically

OPTIONS = TrainingOptions(epochs=1, hidden=(4,), device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = train(load_diabetes(), OPTIONS, folder=tmp_path_factory.mktemp("trained")).checkpoint
    assert path is not None
    return path


@pytest.fixture
def checkpoint(trained: Path) -> Checkpoint:
    return load_checkpoint(trained)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Round trip


def test_load_network_rebuilds_the_trained_network_bit_for_bit_in_eval_mode(trained: Path) -> None:
    result = train(load_diabetes(), OPTIONS)
    network = load_network(trained)
    x = torch.from_numpy(load_diabetes().features).float()
    assert torch.equal(network(x), result.network(x))
    assert not network.training


def test_a_checkpoint_reads_back_as_it_was_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "copy.pt", checkpoint)
    copy = load_checkpoint(tmp_path / "copy.pt")
    for field in ("architecture", "data", "options", "epoch", "history", "metrics"):
        assert getattr(copy, field) == getattr(checkpoint, field), field
    assert copy.options == OPTIONS
    assert copy.data == load_diabetes().describe()
    assert torch.equal(copy.generator_state, checkpoint.generator_state)
    assert all(torch.equal(copy.network_state[name], value) for name, value in checkpoint.network_state.items())


# Files that are no checkpoint


def test_missing_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*mylinear train"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder; name the checkpoint in it"):
        load_checkpoint(tmp_path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    path.write_text("hello")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_checkpoint(path)
    torch.save(torch.nn.Linear(2, 1).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of `mylinear train`$"):
        load_checkpoint(path)
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "foreign.npz")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_nothing_in_the_file_is_executed(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"format": Trap(str(sprung))}, tmp_path / "trap.pt", pickle_module=pickle)
    with pytest.raises(
        CheckpointError, match=r"is not a checkpoint .*: it holds more than plain data, and nothing in it was executed$"
    ):
        load_checkpoint(tmp_path / "trap.pt")
    assert not sprung.exists()


@pytest.mark.parametrize("part", [0.3, 0.7, 0.999])
def test_a_file_cut_short_is_refused(trained: Path, tmp_path: Path, part: float) -> None:
    whole = trained.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CheckpointError, match=r"is not a checkpoint|damaged"):
        load_checkpoint(tmp_path / "cut.pt")


def test_a_single_wrong_byte_in_a_weight_is_noticed(trained: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    weight = checkpoint.network_state["layers.0.weight"].numpy().tobytes()
    whole = bytearray(trained.read_bytes())
    whole[whole.index(weight) + 5] ^= 1
    (tmp_path / "flipped.pt").write_bytes(whole)
    with pytest.raises(CheckpointError, match="damaged: the checksum"):
        load_checkpoint(tmp_path / "flipped.pt")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 4, "has format version 4, and this version of ort-mylinear reads 1, 2 and 3"),
        ("architecture", {"in_features": 2}, "is damaged"),
        ("network_state", {}, "is damaged"),
        ("options", {"lr": -1.0}, "is damaged: lr must be a number above 0"),
        ("data", None, "is damaged"),
    ],
)
def test_versions_and_contents_are_checked(
    trained: Path, tmp_path: Path, key: str, value: object, message: str
) -> None:
    content = torch.load(trained, weights_only=True)
    content[key] = value
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "changed.pt")


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "epoch of another type": (lambda c: c.update(epoch="1"), "epoch must be int, got '1'"),
    "no epoch": (lambda c: c.pop("epoch"), "it lacks 'epoch'"),
    "epoch without history": (lambda c: c.update(epoch=7), "history must have a record for each epoch"),
    "seed of another type": (lambda c: c["options"].update(seed=1.5), "seed must be int, got 1.5"),
    "dtype of another type": (lambda c: c["options"].update(dtype=["float32"]), "dtype must be str"),
    "unknown option": (lambda c: c["options"].update(rate=1), "TrainingOptions has no field 'rate'"),
    "option missing": (lambda c: c["architecture"].pop("in_features"), "Architecture lacks in_features"),
    "dtype that is a function of torch": (lambda c: c["architecture"].update(dtype="load"), "dtype must be float"),
    "layer of no size": (lambda c: c["architecture"].update(hidden=(0,)), "sizes of layers must be 1 or more"),
    "layer of a huge size": (lambda c: c["architecture"].update(hidden=(2**40,)), r"must be .*\[1099511627776, 10\]"),
    "weight of another shape": (lambda c: put(c, "layers.0.weight", torch.zeros(4, 9)), r"float32 \[4, 10\], got"),
    "weight of another dtype": (lambda c: put(c, "layers.0.weight", torch.zeros(4, 10).double()), "got torch.float64"),
    "weight without memory": (lambda c: put(c, "layers.0.weight", torch.zeros(1).expand(4, 10)), "a plain tensor"),
    "weight that is meta": (lambda c: put(c, "layers.0.weight", torch.zeros(4, 10, device="meta")), "a plain tensor"),
    "weight that is sparse": (lambda c: put(c, "layers.0.weight", torch.zeros(4, 10).to_sparse()), "a plain tensor"),
    "weight that is NaN": (lambda c: put(c, "layers.0.weight", torch.full((4, 10), torch.nan)), "must be finite"),
    "weight that is a number": (lambda c: put(c, "layers.0.weight", 3), "must be a tensor, got int"),
    "moment of another shape": (lambda c: moment(c, torch.zeros(3)), r"parameter 0, exp_avg must be .*\[4, 10\]"),
    "moment missing": (lambda c: c["optimizer_state"]["state"][0].pop("exp_avg"), "parameter 0 must have exp_avg and"),
    "optimizer without parameters": (lambda c: c["optimizer_state"].update(state={}), "does not have the network's"),
    "optimizer that is a list": (lambda c: c.update(optimizer_state=[]), "must have the state of each parameter"),
    "stream of another length": (lambda c: c.update(generator_state=torch.zeros(3, dtype=torch.uint8)), "generator_st"),
    "stream of zeros": (lambda c: c["generator_state"].zero_(), "is damaged"),
    "history of text": (lambda c: c.update(history=[(1, "a", None, None)]), "loss must be float, got 'a'"),
    "metrics of text": (lambda c: c["metrics"]["train"].update(mse="good"), "mse must be float"),
    "columns of another count": (lambda c: c["data"].update(columns=[{"name": "a"}]), "columns do not give the feat"),
    "column of another type": (lambda c: c["data"].update(columns=[{"name": 1}]), "name must be str, got 1"),
    "another task": (lambda c: c["data"].update(task="ranking"), "task must be"),
    "classes of a regression": (lambda c: c["data"].update(class_names=("a",)), "task does not go with the classes"),
    "another number of inputs": (
        lambda c: c["data"].update(feature_names=("a",), columns=[{"name": "a"}]),
        "features are not the network's inputs",
    ),
}


def put(content: dict[str, Any], name: str, value: object) -> None:
    content["network_state"][name] = value


def moment(content: dict[str, Any], value: object) -> None:
    content["optimizer_state"]["state"][0]["exp_avg"] = value


@pytest.mark.parametrize("case", DAMAGE)
def test_whatever_a_checkpoint_holds_is_checked_before_it_is_used(trained: Path, tmp_path: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    content = torch.load(trained, weights_only=True)
    damage(content)
    torch.save(content, tmp_path / "damaged.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "damaged.pt")
    assert "\n" not in str(caught.value)


def test_an_archive_that_claims_more_than_it_has_is_refused_before_it_is_read(trained: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(trained) as archive,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", compression=zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name) + bytes(2**24))
    with pytest.raises(CheckpointError, match="is damaged: it claims"):
        load_checkpoint(tmp_path / "bomb.pt")


@pytest.mark.parametrize("version", [1, 2])
def test_a_checkpoint_of_an_older_format_is_read(version: int, trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained, weights_only=True)
    content["format_version"] = version
    del content["options"]["engine"]
    if version == 1:
        del content["data"]["columns"], content["data"]["fill"]
    torch.save(content, tmp_path / "old.pt")
    old, new = load_checkpoint(tmp_path / "old.pt"), load_checkpoint(trained)
    assert (old.data, old.options) == (new.data, new.options)
    more = replace(OPTIONS, epochs=2)
    first, second = (train(load_diabetes(), more, resume=checkpoint) for checkpoint in (old, new))
    assert first.history == second.history


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_of_bytes_is_one_line_or_nothing(trained: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    whole = trained.read_bytes()
    path = tmp_path / "damaged.pt"
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 4, 64))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice((len(content), len(content), rng.randrange(len(content))))])
        try:
            load_checkpoint(path).network()
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017


# Writing


def test_a_checkpoint_has_the_permissions_of_other_new_files(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "checkpoint.pt").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be written: No space left on device; free some"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system; name a folder that you may write"),
    ],
)
def test_a_failing_write_leaves_the_old_checkpoint_and_nothing_else(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: OSError, message: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, checkpoint)

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(failing, fail)
    with pytest.raises(CheckpointError, match=message) as caught:
        save_checkpoint(path, replace(checkpoint, epoch=99))
    assert str(path) in str(caught.value)
    assert load_checkpoint(path).epoch == 1
    assert names_in(tmp_path) == ["checkpoint.pt"]


def test_a_disk_that_fills_up_half_way_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits are a thing of POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))  # Python ignores the signal, so write fails
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            write_atomically(tmp_path / "big", bytes(2**21))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names_in(tmp_path) == []


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_a_missing_folder_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no folder '.*nowhere'"):
        save_checkpoint(tmp_path / "nowhere" / "checkpoint.pt", checkpoint)


def test_make_folder_makes_parents_and_tries_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_folder(tmp_path / "a" / "b")
    assert names_in(made) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"'.*file' is a file; name a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        make_folder(tmp_path / "file" / "below")

    def refuse(self: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OutputError, match="Read-only file system; name a folder"):
        make_folder(made)
