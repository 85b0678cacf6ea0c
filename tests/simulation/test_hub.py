"""Data sets by name. Those that are loaded lie on this disk: by the same calls, but nothing is downloaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import here
from tiny_language import TASK, save_code, save_model
from vision_files import CLASSES, DOMAINS, gallery_arrays, random_backbone, write_folder, write_onnx

from zkapex.errors import InputError
from zkapex.simulation.data import corpus, hub
from zkapex.simulation.data.corpus import read_windows
from zkapex.simulation.data.hub import HubData, HubItem, parse_data
from zkapex.simulation.data.pictures import Gallery, read
from zkapex.simulation.evaluation.evaluate import evaluate
from zkapex.simulation.scenarios import Sources, pacs, scenario_config
from zkapex.simulation.scenarios.mnist_writers import MNIST_WRITERS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The library, with a cache of the test's own."""
    pytest.importorskip("flwr_datasets")
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    library.disable_progress_bars()
    hub.revision_of.cache_clear()
    yield library
    library.enable_progress_bars()


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("flwrlabs/pacs", HubItem("flwrlabs/pacs", None, None, "train", None, False)),
        ("mnist[test]", HubItem("mnist", None, None, "test", None, False)),
        ("a/b@v1[validation]=photo", HubItem("a/b", None, "v1", "validation", "photo", False)),
        ("a/b/data", HubItem("a/b", "data/*.parquet", None, "train", None, False)),
        (
            "a/b/Scala-all/train/*.parquet@refs/convert/parquet=scala",
            HubItem("a/b", "Scala-all/train/*.parquet", "refs/convert/parquet", "train", "scala", False),
        ),
    ],
)
def test_what_a_name_stands_for(text: str, item: HubItem) -> None:
    assert parse_data(f"hub:{text}") == HubData((item,))
    assert parse_data(f"hub:{text},hub:c/d=sketch") == HubData(
        (item, HubItem("c/d", None, None, "train", "sketch", False))
    )


def test_a_path_is_a_path_and_a_folder_needs_no_hub(tmp_path: Path) -> None:
    assert parse_data("some/data.npz") == Path("some/data.npz")
    assert parse_data(f"hub:{tmp_path}[test]") == HubData((HubItem(str(tmp_path), None, None, "test", None, True),))
    found = parse_data(f"hub:{tmp_path}/part-*.parquet=photo")
    assert found == HubData((HubItem(str(tmp_path), "part-*.parquet", None, "train", "photo", True),))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "cannot read"),
        ("a/b[", "cannot read"),
        ("a/b=c=d,hub:", "cannot read"),
        ("a/b/data[test]", "files and a split"),
        ("/nowhere/at/all", "no folder"),
        ("/@main", "has no revision main"),
    ],
)
def test_names_that_make_no_sense(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        parse_data(f"hub:{text}")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    data = parse_data(f"hub:flwrlabs/pacs@{COMMIT}")
    assert isinstance(data, HubData)
    for use in (lambda: read(data), lambda: read_windows(data, {"c": 1}, 8, 2, str.encode)):
        with pytest.raises(InputError, match="need flwr-datasets") as error:
            use()
        assert "zkapex[hub]" in error.value.fix


def test_the_command_line_refuses_what_a_scenario_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, what in (
        (["digits", "--classes", "3"], "--classes is for images"),
        (["mnist-writers", "--data", "hub:ylecun/mnist"], "cannot read hub:ylecun/mnist"),
        (["pacs", "--data", "hub:a b[["], "cannot read"),
    ):
        assert here("evaluate", *arguments, "--out", tmp_path / "out", "--json") == 10
        assert what in json.loads(capsys.readouterr().out)["what"]
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="cannot read"):
        MNIST_WRITERS.make(0, Sources(parse_data("hub:ylecun/mnist")))


def test_some_classes_are_spread_over_all(tmp_path: Path) -> None:
    write_folder(gallery_arrays(2), tmp_path)
    whole = read(tmp_path)
    some = whole.some_classes(2)
    assert some.class_names == CLASSES[:2]
    assert some.domain_names == whole.domain_names
    assert sorted(some.encoded(i) for i in range(len(some.images))) == sorted(
        whole.encoded(i) for i in range(len(whole.images)) if whole.labels[i] < 2
    )
    assert np.array_equal(np.unique(some.labels), [0, 1])
    many = Gallery((b"",) * 1000, np.arange(1000), np.zeros(1000, np.int64), tuple(map(str, range(1000))), ("a",))
    assert many.some_classes(4).class_names == ("0", "250", "500", "750")
    for count in (1, 4):
        with pytest.raises(InputError, match=f"--classes is {count}, and the data has 3"):
            whole.some_classes(count)


def pictures(datasets: Any, path: Path, keep: Callable[[dict[str, Any]], bool] = lambda row: True) -> Any:
    """The images of `gallery_arrays` as a data set with image, label and domain, written to a Parquet file."""
    arrays = gallery_arrays(30)
    rows = [
        {
            "image": {"bytes": arrays["blob"][arrays["off"][i] : arrays["off"][i + 1]].tobytes(), "path": None},
            "label": int(label),
            "domain": DOMAINS[domain],
        }
        for i, (label, domain) in enumerate(zip(arrays["y"], arrays["domain"], strict=True))
    ]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(CLASSES)), domain=datasets.Value("string")
    )
    data = datasets.Dataset.from_list([row for row in rows if keep(row)], features=features)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_parquet(path)
    return data


def gallery(text: str) -> Gallery:
    return read(parse_data(text))


def contents(one: Gallery) -> list[tuple[str, str, bytes]]:
    return sorted(
        (one.domain_names[one.domains[i]], one.class_names[one.labels[i]], one.encoded(i))
        for i in range(len(one.images))
    )


def test_a_data_set_is_the_same_as_its_images_in_a_file(datasets: Any, tmp_path: Path) -> None:
    pictures(datasets, tmp_path / "pacs" / "data" / "train-00000-of-00001.parquet")
    np.savez(tmp_path / "data.npz", **gallery_arrays(30))
    file, named = read(tmp_path / "data.npz"), gallery(f"hub:{tmp_path}/pacs")
    assert (named.class_names, named.domain_names) == (CLASSES, DOMAINS)
    assert contents(named) == contents(file)
    assert torch.equal(named.pixels(0, 28), file.pixels(0, 28))


def test_one_data_set_for_each_domain(datasets: Any, tmp_path: Path) -> None:
    for domain in DOMAINS:
        split = "validation" if domain == "photo" else "train"
        pictures(datasets, tmp_path / domain / f"{split}-0.parquet", lambda row, own=domain: row["domain"] == own)
    pictures(datasets, tmp_path / "photo" / "train-0.parquet", lambda row: row["domain"] == "cartoon")
    names = [f"hub:{tmp_path}/photo[validation]=Photo", f"hub:{tmp_path}/sketch=sketch", f"hub:{tmp_path}/cartoon=c"]
    found = gallery(",".join(names))
    assert found.domain_names == ("Photo", "c", "sketch")
    files = gallery(",".join([f"hub:{tmp_path}/photo/validation-*.parquet=Photo", *names[1:]]))
    assert contents(files) == contents(found)
    np.savez(tmp_path / "data.npz", **gallery_arrays(30))
    assert [row[2] for row in contents(found)] == [
        row[2]
        for name in ("photo", "cartoon", "sketch")
        for row in contents(read(tmp_path / "data.npz"))
        if row[0] == name
    ]
    assert pacs.roles(found) == ("Photo", "sketch", ["c"])


def test_a_folder_of_image_files_is_a_data_set(datasets: Any, tmp_path: Path) -> None:
    write_folder(gallery_arrays(1, ("photo",)), tmp_path / "tree")
    found = gallery(f"hub:{tmp_path}/tree/photo=photo")
    assert found.class_names == CLASSES
    assert [row[2] for row in contents(found)] == [row[2] for row in contents(read(tmp_path / "tree"))]


def test_labels_may_be_words_or_plain_numbers(datasets: Any, tmp_path: Path) -> None:
    data = pictures(datasets, tmp_path / "whole" / "train.parquet")
    plain = data.cast_column("label", datasets.Value("int64"))
    words = (
        plain.map(lambda row: {"name": CLASSES[row["label"]]}).remove_columns("label").rename_column("name", "label")
    )
    for name, changed in (("plain", plain), ("words", words)):
        (tmp_path / name).mkdir()
        changed.to_parquet(tmp_path / name / "train.parquet")
    wanted = contents(gallery(f"hub:{tmp_path}/whole"))
    assert contents(gallery(f"hub:{tmp_path}/words")) == wanted
    assert gallery(f"hub:{tmp_path}/plain").class_names == ("0", "1", "2")
    both = gallery(f"hub:{tmp_path}/whole=photo,hub:{tmp_path}/plain=sketch")
    assert both.class_names == CLASSES


def test_data_sets_that_cannot_be_used_are_refused(datasets: Any, tmp_path: Path) -> None:
    data = pictures(datasets, tmp_path / "good" / "train.parquet")
    other = data.cast_column("label", datasets.ClassLabel(names=["cat", "mug", "tree"]))
    hidden = data.cast_column("label", datasets.Value("int64")).map(lambda row: {"label": -1})
    changed = {
        "image": data.remove_columns("image"),
        "domain": data.remove_columns("domain"),
        "other": other,
        "hidden": hidden,
        "text": data.remove_columns("image").add_column("image", ["x"] * len(data)),
        "number": data.remove_columns("image").add_column("image", [1] * len(data)),
    }
    for name, one in changed.items():
        (tmp_path / name).mkdir()
        one.to_parquet(tmp_path / name / "train.parquet")
    (tmp_path / "empty").mkdir()
    for text, what in (
        ("image", "no column image"),
        ("domain", "no column domain"),
        ("hidden", "without a class"),
        ("number", "holds no images"),
        ("good[test]", "cannot load"),
        ("empty", "cannot load"),
        ("good/absent-*.parquet", "cannot load"),
    ):
        with pytest.raises(InputError, match=what):
            gallery(f"hub:{tmp_path}/{text}")
    with pytest.raises(InputError, match="different classes") as error:
        gallery(f"hub:{tmp_path}/good=photo,hub:{tmp_path}/other=sketch")
    assert "class 1 is 'mug' in one, 'cup' in the other" in error.value.why
    with pytest.raises(InputError, match="cannot"):
        gallery(f"hub:{tmp_path}/text").pixels(0, 28)


def test_a_hub_out_of_reach_is_said(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.revision_of.cache_clear()
    # A port of this machine that nobody listens on.
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    data = parse_data("hub:flwrlabs/pacs")
    with pytest.raises(InputError, match="cannot reach the hub for flwrlabs/pacs"):
        read(data)


def test_a_script_is_not_run(datasets: Any, tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "thing.py").write_text("raise SystemExit")
    with pytest.raises(InputError, match="runs no code") as error:
        gallery(f"hub:{tmp_path}/thing")
    assert "refs/convert/parquet" in error.value.fix


def test_an_evaluation_names_the_data_it_is_of(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacs, "PIXELS", 28)
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path / "features"))
    pictures(datasets, tmp_path / "pacs" / "train.parquet")
    write_onnx(random_backbone(), tmp_path / "vit.onnx")
    sources = Sources(parse_data(f"hub:{tmp_path}/pacs"), str(tmp_path / "vit.onnx"), classes=2)
    bench = pacs.PACS.make(0, sources)
    assert set(bench.world.retain_set.labels.tolist()) == {1}
    assert len(bench.world.forget_set.labels) + len(bench.world.retain_set.labels) == 36
    config = replace(scenario_config("pacs"), make=_Stop(pacs.PACS.make))
    for text in (f"hub:{tmp_path}/pacs", f"hub:{tmp_path}/pacs/train.parquet"):
        out = tmp_path / f"out-{text.endswith('parquet')}"
        with pytest.raises(_Done):
            evaluate(config, 1, out, sources=replace(sources, data=parse_data(text)))
        marker = json.loads((out / "evaluation.json").read_text())
        assert marker["classes"] == 2
        assert marker["data"][0]["name"] == text.removeprefix("hub:")
        assert marker["data"][0]["revision"].startswith("sha256:")
    pictures(datasets, tmp_path / "pacs" / "more.parquet")
    hub.revision_of.cache_clear()
    config = replace(scenario_config("pacs"), make=_Stop(lambda seed, sources: bench))
    with pytest.raises(InputError, match="another evaluation"):
        evaluate(config, 1, tmp_path / "out-False", sources=sources)


class _Done(Exception):
    """The evaluation has said what it is of."""


class _Stop:
    """Makes one bench, then stops: the folder is marked between the first and the second."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make, self.made = make, set[str]()

    def __call__(self, seed: int, sources: Sources) -> Any:
        if str(sources.data) in self.made:
            raise _Done
        self.made.add(str(sources.data))
        return self.make(seed, sources)


def save_rows(datasets: Any, folder: Path, path: Path, spelt: dict[str, str], **columns: str) -> None:
    """The files of `save_code` as a data set of one file in each row, languages mixed."""
    rows = [
        {
            columns.get("code", "code"): file.read_text(),
            columns.get("language", "language"): spelt.get(own.name, own.name),
        }
        for own in sorted(folder.iterdir())
        for file in sorted(own.rglob("*.txt"))
    ]
    order = np.random.default_rng(1).permutation(len(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list([rows[i] for i in order]).to_parquet(path)


def test_windows_come_out_of_rows(datasets: Any, tmp_path: Path) -> None:
    folder = save_code(tmp_path / "code", ("c", "cpp", "rust"))
    save_rows(datasets, folder, tmp_path / "rows" / "train.parquet", {"cpp": "C++", "c": "C", "rust": "Rust"})
    data = parse_data(f"hub:{tmp_path}/rows")
    wanted = {"cpp": 20, "c": 9}
    found = read_windows(data, wanted, 12, 2, lambda text: list(text.encode()))
    again = read_windows(data, wanted, 12, 2, lambda text: list(text.encode()))
    for name, count in wanted.items():
        assert found[name].tokens.shape == (count + count % 2, 13)
        assert np.array_equal(found[name].tokens, again[name].tokens)
        assert np.unique(found[name].files, return_counts=True)[1].max() == 2
        letters = {letter for file in (folder / name).rglob("*.txt") for letter in file.read_bytes()}
        assert set(found[name].tokens.ravel().tolist()) <= letters


def test_a_language_may_have_a_data_set_of_its_own(datasets: Any, tmp_path: Path) -> None:
    for name in ("c", "rust"):
        folder = save_code(tmp_path / name, (name,))
        save_rows(datasets, folder, tmp_path / f"rows-{name}" / "x.parquet", {}, code="content", language="lang")
    text = f"hub:{tmp_path}/rows-c/x.parquet=c,hub:{tmp_path}/rows-rust=Rust"
    found = read_windows(parse_data(text), {"rust": 4, "c": 4}, 12, 2, lambda text: list(text.encode()))
    assert not set(found["c"].files.tolist()) & set(found["rust"].files.tolist())
    assert list(found) == ["rust", "c"]


def test_rows_without_what_is_needed_are_refused(
    datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_code(tmp_path / "code", ("c", "rust"))
    save_rows(datasets, folder, tmp_path / "rows" / "x.parquet", {})
    save_rows(datasets, folder, tmp_path / "nocode" / "x.parquet", {}, code="body")
    save_rows(datasets, folder, tmp_path / "nolang" / "x.parquet", {}, language="kind")

    def windows(text: str, **wanted: int) -> Any:
        return read_windows(parse_data(f"hub:{tmp_path}/{text}"), wanted, 12, 2, lambda text: list(text.encode()))

    for text, what in (
        ("nocode", "no column code or content"),
        ("nolang", "no column language or lang"),
        ("rows[test]", "cannot load"),
    ):
        with pytest.raises(InputError, match=what):
            windows(text, c=1)
    with pytest.raises(InputError, match="too little of scala"):
        windows("rows", c=1, scala=1)
    monkeypatch.setattr(corpus, "_MOST_ROWS", 3)
    with pytest.raises(InputError, match="too little of c") as error:
        windows("rows", c=60)
    assert "at most 3 rows" in error.value.why


def test_the_language_scenario_reads_rows(datasets: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = str(save_model(tmp_path / "model", "opt"))
    folder = save_code(tmp_path / "code")
    save_rows(
        datasets, folder, tmp_path / "rows" / "train.parquet", {name: name.title() for name in ("c", "java", "scala")}
    )
    bench = TASK(0, Sources(parse_data(f"hub:{tmp_path}/rows"), model))
    assert bench.world.forget_set.labels.shape == (12, 12)
    assert len(bench.world.retain_set.labels) == 24
