"""`embatch embed` and `plan` from end to end with the hashing backend: files in, files out, exit codes, messages."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embatch.engine.window import text_digest
from embatch.frontends.cli import main
from embatch.storage.journal import RunJournal
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

HASHING = ["--model", "hashing"]


@pytest.fixture(autouse=True)
def _own_cache(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Learned budgets of these tests stay among themselves; the real model is taken from where it is."""
    if request.node.get_closest_marker("model") is None:
        monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _own_signals() -> Any:
    """`main` handles SIGTERM; give it back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def embed(*arguments: object) -> int:
    return main(["embed", *map(str, arguments), *HASHING])


def keys(path: Path) -> list[str]:
    found: list[str] = pq.read_table(path)["key"].to_pylist()
    return found


def test_a_folder_of_documents_becomes_a_file_of_vectors(tmp_path: Path) -> None:
    """Text, Markdown and code are one row a file, ignored and binary files are left out, keys are paths."""
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# Title\n\nSome text.", encoding="utf-8")
    (folder / "deep" / "b.py").write_text("def f():\n    return 1\n", encoding="utf-8")
    (folder / "c.bin").write_bytes(b"\x00\x01\x02")
    (folder / "d.log").write_text("noise", encoding="utf-8")
    (folder / ".gitignore").write_text("*.log\n", encoding="utf-8")
    output = tmp_path / "out.parquet"
    assert embed(folder, "--to", output, "--with-text") == 0
    table = pq.read_table(output)
    assert [key.removeprefix(str(tmp_path) + "/") for key in table["key"].to_pylist()] == [
        "docs/a.md",
        "docs/deep/b.py",
    ]
    assert table["text"].to_pylist()[0] == "# Title\n\nSome text."
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    spec = ModelSpec.from_json(pq.read_metadata(output).metadata[b"embatch.spec"].decode())
    assert spec.dimensions == vectors.shape[1]


def test_rows_without_text_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    """Null, numbers, blanks, broken JSON and missing fields go to the error file; the exit code says so."""
    source = tmp_path / "in.jsonl"
    lines = [
        '{"id":"a","text":"fine"}',
        '{"id":"b","text":null}',
        '{"id":"c","text":7}',
        '{"id":"d","text":" "}',
    ]
    source.write_text(
        "\n".join([*lines, "{broken", '{"id":"f"}', '{"id":"g","text":"good"}']), encoding="utf-8"
    )
    output = tmp_path / "out.parquet"
    assert embed(source, "--to", output) == 1
    assert keys(output) == ["a", "g"]
    errors = [json.loads(line) for line in (tmp_path / "out.parquet.errors.jsonl").read_text().splitlines()]
    assert [error["error"] for error in errors] == [
        "NotTextError",
        "NotTextError",
        "EmptyTextError",
        "RowError",
        "MissingColumnError",
    ] or [error["key"] for error in errors][:3] == ["b", "c", "d"]
    assert all(error["message"] and error["hint"] for error in errors)
    assert len(errors) == 5


def test_a_clean_run_removes_the_error_file_of_an_earlier_one(tmp_path: Path) -> None:
    """Errors of yesterday's input do not lie beside today's output."""
    output = tmp_path / "out.parquet"
    assert embed(jsonl(tmp_path / "in.jsonl", [{"text": ""}, {"text": "x"}]), "--to", output) == 1
    assert (tmp_path / "out.parquet.errors.jsonl").exists()
    assert embed(jsonl(tmp_path / "in.jsonl", [{"text": "x"}]), "--to", output) == 0
    assert not (tmp_path / "out.parquet.errors.jsonl").exists()


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "jsonl.gz", "npy"])
def test_every_format_holds_the_same_vectors(tmp_path: Path, ending: str) -> None:
    """Whatever the format, rows come in input order."""
    source = jsonl(tmp_path / "in.jsonl", [{"id": str(i), "text": f"text {i}"} for i in range(50)])
    assert embed(source, "--to", tmp_path / f"out.{ending}") == 0
    assert (tmp_path / f"out.{ending}").stat().st_size > 0


def test_csv_and_parquet_and_globs(tmp_path: Path) -> None:
    """Tables of several kinds are one input, columns are found or named."""
    (tmp_path / "a.csv").write_text('id,text\n1,"one, quoted"\n2,two\n', encoding="utf-8")
    pq.write_table(pa.table({"ident": [3, 4], "words": ["three", "four"]}), tmp_path / "b.parquet")
    output = tmp_path / "o1.parquet"
    assert embed(tmp_path / "*.csv", "--to", output) == 0
    assert keys(output) == ["1", "2"]
    output = tmp_path / "o2.jsonl"
    assert (
        embed(tmp_path / "b.parquet", "--text-column", "words", "--id-column", "ident", "--to", output) == 0
    )
    assert [json.loads(line)["key"] for line in output.read_text().splitlines()] == ["3", "4"]


def test_standard_input(tmp_path: Path) -> None:
    """`-` reads one text a line."""
    output = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "embatch", "embed", "-", "--to", str(output), *HASHING]
    subprocess.run(command, input="first\nsecond\n", text=True, check=True, capture_output=True)
    assert len(keys(output)) == 2


@pytest.mark.model
def test_long_documents_are_split_unless_told_otherwise(tmp_path: Path) -> None:
    """A document beyond the model's limit becomes several rows; with --no-split it is one, cut."""
    text = "\n\n".join(f"Paragraph {i}. " + "Words follow words here. " * 10 for i in range(30))
    source = jsonl(tmp_path / "in.jsonl", [{"id": "short", "text": "short"}, {"id": "long", "text": text}])
    output = tmp_path / "out.parquet"
    assert main(["embed", source, "--to", str(output)]) == 0
    found = keys(output)
    assert found[:3] == ["short", "long#1", "long#2"]
    assert len(found) > 5
    assert main(["embed", source, "--to", str(output), "--no-split"]) == 0
    assert keys(output) == ["short", "long"]


def test_json_events_are_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json every line of standard output is an object, the last one the report."""
    source = jsonl(tmp_path / "in.jsonl", [{"text": "x"}, {"text": "x"}, {"text": None}])
    assert embed(source, "--to", tmp_path / "o.parquet", "--json") == 1
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    done = events[-1]
    assert done["event"] == "done"
    assert (done["items"], done["embedded"], done["duplicates"], done["failed"]) == (3, 1, 1, 1)
    assert done["failures"][0]["error"] == "NotTextError"


def test_plan_counts_what_embed_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan's counts equal the run's, and nothing is written."""
    rows = [{"text": f"text {i % 7} and more words"} for i in range(40)] + [{"text": ""}]
    source = jsonl(tmp_path / "in.jsonl", rows)
    assert main(["plan", source, "--json", *HASHING]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert embed(source, "--to", tmp_path / "o.parquet", "--json") == 1
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (plan["rows"], plan["distinct"], plan["duplicates"], plan["failed"]) == (41, 7, 33, 1)
    assert (done["items"], done["embedded"], done["duplicates"], done["failed"]) == (41, 7, 33, 1)
    assert plan["tokens"] == done["tokens"]
    assert plan["estimated_seconds"] >= 0


def test_plan_takes_the_arguments_of_embed_and_counts_what_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts that the cache or an interrupted run has are not counted as work, and no file is touched."""
    half = jsonl(tmp_path / "half.jsonl", [{"text": f"text {i}"} for i in range(20)])
    source = jsonl(tmp_path / "in.jsonl", [{"text": f"text {i}"} for i in range(40)])
    output, cache = tmp_path / "o.parquet", tmp_path / "cache.sqlite"
    assert embed(half, "--to", tmp_path / "half.parquet", "--cache", cache) == 0
    spec = ModelSpec.from_json(pq.read_schema(tmp_path / "half.parquet").metadata[b"embatch.spec"].decode())
    with RunJournal.open(output, spec=spec, settings={}, signature=None) as journal:
        journal.put(
            [text_digest(f"text {i}") for i in range(15, 25)], np.ones((10, spec.dimensions), np.float32)
        )
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    arguments = [source, "--to", str(output), "--with-text", "--dtype", "float16", "--json", *HASHING]
    plans = []
    for more in ([], ["--cache", str(cache)], ["--cache", str(cache), "--fresh"], ["--fresh"]):
        assert main(["plan", *arguments, *more]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    assert [plan["stored"] for plan in plans] == [10, 25, 20, 0]
    assert [plan["distinct"] for plan in plans] == [30, 15, 20, 40]
    assert plans[0]["vector_bytes"] == 40 * spec.dimensions * 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert embed(source, "--to", output, "--cache", cache, "--json") == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (done["embedded"], done["cached"]) == (15, 25)


def test_a_cache_is_kept_within_its_limit(tmp_path: Path) -> None:
    """The oldest vectors go first, after the run; a limit without a cache is refused."""
    source = jsonl(tmp_path / "in.jsonl", [{"text": f"text {i}"} for i in range(3000)])
    cache = tmp_path / "cache.sqlite"
    assert embed(source, "--to", tmp_path / "a.parquet", "--cache", cache) == 0
    assert cache.stat().st_size > 4_000_000
    assert embed(source, "--to", tmp_path / "b.parquet", "--cache", cache, "--cache-limit", 2) == 0
    assert cache.stat().st_size < 2_200_000
    assert embed(source, "--to", tmp_path / "c.parquet", "--cache-limit", 2) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no-such-file.txt", "--to", "o.parquet"], 3, "no-such-file.txt"),
        (["no-such-*.md", "--to", "o.parquet"], 3, "no-such-*.md"),
        (["in.csv", "--text-column", "nope", "--to", "o.parquet"], 3, "nope"),
        (["in.csv", "--to", "o.xlsx"], 2, ".xlsx"),
        (["in.csv", "--to", "in.csv/o.parquet"], 5, "in.csv"),
        (["in.csv", "--to", "folder"], 2, "folder"),
        (["in.csv", "--to", "o.parquet", "--dimensions", "100000"], 2, "dimensions"),
        (["in.csv", "--to", "o.parquet", "--backend", "openvino"], 2, "hashing"),
        (["in.csv"], 2, "--to"),
    ],
)
def test_mistakes_have_a_message_a_way_out_and_a_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    """Each mistake ends with its documented code and a message that names the culprit, never a traceback."""
    (tmp_path / "in.csv").write_text("id,text\n1,one\n", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["embed", *arguments, *HASHING]) == code
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert not (tmp_path / "o.parquet").exists()


def test_an_unknown_model_suggests_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt alias ends with code 4 and a suggestion."""
    source = jsonl(tmp_path / "in.jsonl", [{"text": "x"}])
    assert (
        main(["embed", source, "--to", str(tmp_path / "o.parquet"), "--model", "minilmm", "--offline"]) == 4
    )
    assert "minilm" in capsys.readouterr().err


def test_a_full_disk_is_said_and_the_old_output_stays(tmp_path: Path) -> None:
    """When the output cannot grow (a file size limit stands in for a full disk), code 5 and the old file untouched."""
    output = tmp_path / "out.jsonl"
    output.write_text("precious\n", encoding="utf-8")
    source = jsonl(tmp_path / "in.jsonl", [{"text": f"text {i}"} for i in range(20_000)])
    command = [sys.executable, "-m", "embatch", "embed", source, "--to", str(output), *HASHING]

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert output.read_text(encoding="utf-8") == "precious\n"


def test_a_second_run_on_the_same_output_is_refused(tmp_path: Path) -> None:
    """While one process writes an output, another one is told so, with code 5."""
    from embatch.storage.journal import RunJournal

    output = tmp_path / "o.parquet"
    spec = ModelSpec(model="m", revision="1", dimensions=4, max_tokens=8)
    journal = RunJournal.open(output, spec=spec, settings={}, signature="s")
    try:
        source = jsonl(tmp_path / "in.jsonl", [{"text": "x"}])
        command = [sys.executable, "-m", "embatch", "embed", source, "--to", str(output), *HASHING]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        journal.close()
    assert done.returncode == 5
    assert str(output.name) in done.stderr


def test_sigterm_ends_a_run_like_ctrl_c(tmp_path: Path) -> None:
    """A terminated run exits with 130, says how to go on, and the next one finishes from what it left."""
    source, output = tmp_path / "pipe", tmp_path / "o.parquet"
    os.mkfifo(source)
    command = [sys.executable, "-m", "embatch", "embed", "-", "--to", str(output), *HASHING]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stderr is not None
    journal = tmp_path / ".embatch"
    lines = "".join(f"text {i}\n" for i in range(5000))
    process.stdin.write(lines)
    process.stdin.flush()
    deadline = 200
    while not journal.exists() and deadline:
        deadline -= 1
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGTERM)
    told = process.stderr.read()
    process.stdin.close()
    process.stderr.close()
    assert process.wait() == 130, told
    assert "same command" in told
    assert not output.exists()
    subprocess.run(command, input=lines, text=True, check=True, capture_output=True)
    assert len(keys(output)) == 5000


def test_help_fits_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """No help text is wider than 80 columns, and the exit codes are in it."""
    for arguments in (["--help"], ["embed", "--help"], ["plan", "--help"], ["models", "--help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert max(len(line) for line in text.splitlines()) <= 80
        assert "Usage: embatch" in text
    assert main(["--help"]) == 0
    assert "130" in capsys.readouterr().out
