"""What the process returns, and that an error is one line on stderr and nothing on stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rectify import errors
from rectify.cli.app import main
from tests.conftest import HANG, Said, environment, run_process

from .conftest import PAIR

EDIT = ("edit", "model.pt", *PAIR)


def assert_one_error(said, message: str, code: int = 2) -> None:
    assert said.code == code
    assert said.out == ""
    assert said.err.count("\n") == 1 and said.err.startswith("error: ")
    assert message in said.err
    assert "Usage" not in said.err and "Traceback" not in said.err


def test_pass_is_0(rectify_, library) -> None:
    assert rectify_(*EDIT, "--max-asr", "0.05", "--min-recovery", "0.8").code == 0


def test_a_violated_gate_is_1(rectify_, library) -> None:
    said = rectify_(*EDIT, "--max-asr", "0.001")
    assert said.code == 1
    assert "0.1" in said.out


def test_exit_zero_turns_1_into_0_and_nothing_else(rectify_, library) -> None:
    assert rectify_(*EDIT, "--max-asr", "0.001", "--exit-zero").code == 0
    library.inconclusive = "the fault is not there"
    assert rectify_(*EDIT, "--exit-zero").code == 3
    assert rectify_("edit", "--exit-zero").code == 2


@pytest.mark.parametrize("form", ["text", "json", "markdown", "junit", "github"])
@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_neither_format_nor_quiet_changes_the_code(rectify_, library, form: str, quiet: list[str]) -> None:
    assert rectify_(*EDIT, "--format", form, *quiet).code == 0
    assert rectify_(*EDIT, "--max-asr", "0", "--format", form, *quiet).code == 1
    library.inconclusive = "the fault is not there"
    assert rectify_(*EDIT, "--format", form, *quiet).code == 3


def test_inconclusive_is_3_by_report_and_by_exception(rectify_, library) -> None:
    library.inconclusive = "the fault is not there"
    said = rectify_(*EDIT)
    assert said.code == 3 and "the fault is not there" in said.out

    def give_up() -> None:
        raise errors.Inconclusive("accuracy is at chance: check --preprocess")

    library.during = give_up
    assert_one_error(rectify_(*EDIT), "accuracy is at chance", 3)


LEAVES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RectifyError)]


@pytest.mark.parametrize("kind", LEAVES)
def test_every_error_of_the_tree(rectify_, library, kind) -> None:
    def fail() -> None:
        raise kind("what is wrong; what to type")

    library.during = fail
    assert_one_error(rectify_(*EDIT), "error: what is wrong; what to type", kind.exit_code)


def test_an_internal_error_is_one_line_and_the_traceback_on_request(rectify_, library) -> None:
    def fail() -> None:
        raise ValueError("several\nlines of\n\n it")

    library.during = fail
    assert_one_error(rectify_(*EDIT), "internal: ValueError: several lines of it (--traceback shows where)")
    said = rectify_(*EDIT, "--traceback")
    assert said.code == 2 and "Traceback (most recent call last)" in said.err and "in fail" in said.err


@pytest.mark.parametrize(("name", "package"), [("scipy.stats", "scipy"), ("PIL", "pillow")])
def test_a_package_that_is_missing_is_named_as_pip_calls_it(rectify_, library, name: str, package: str) -> None:
    def fail() -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    library.during = fail
    top = name.partition(".")[0]
    assert_one_error(rectify_(*EDIT), f"error: the package {top} is missing: pip install {package}")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")])
def test_out_of_memory_names_the_way_out(rectify_, library, error: Exception) -> None:
    def fail() -> None:
        raise error

    library.during = fail
    assert_one_error(rectify_(*EDIT), "out of memory; try a smaller --batch-size")
    said = rectify_(*EDIT, "--batch-size", "1")  # there is none
    assert_one_error(said, "out of memory with one image at a time: smaller images (--input-size,")


def test_code_that_exits_cannot_turn_the_gate_green(rectify_, library) -> None:
    library.during = lambda: sys.exit(0)
    assert_one_error(rectify_(*EDIT), "tried to exit with 0")


def test_what_is_no_exception_is_an_internal_error_too(rectify_, library) -> None:
    class Stop(BaseException):
        pass

    def fail() -> None:
        raise Stop("that's\nit")

    library.during = fail
    assert_one_error(rectify_(*EDIT), "internal: Stop: that's it (--traceback shows where)")


def test_interrupted_is_130(rectify_, library) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    library.during = interrupt
    said = rectify_(*EDIT)
    assert (said.code, said.out, said.err.splitlines()[-1]) == (130, "", "interrupted")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which command? localize, edit, explain, evaluate"),
        (["locallize"], "no such command: locallize; did you mean localize?"),
        (["zoom"], "no such command: zoom; commands are localize, edit, explain, evaluate"),
        (["edit", "--posioned", "b"], "no such option: --posioned; did you mean --poisoned?"),
        (["edit", "--corupted", "b"], "no such option: --corupted; did you mean --corrupted?"),
        (["--versoin"], "no such option: --versoin; did you mean --version?"),
        (["edit", "-z"], "no such option: -z; rectify edit --help lists them"),
        (["localize", "model.pt", "--foo"], "no such option: --foo; rectify localize --help lists them"),
        (["--foo"], "no such option: --foo; rectify --help lists them"),
        (["--format", "json", "edit"], "--format goes after the command: rectify localize --format"),
        (["localize", "model.pt", "--max-asr", "0.1"], "localize has no --max-asr; it belongs to edit and evaluate"),
        (["evaluate", "model.pt", "-o", "x"], "evaluate has no -o; it belongs to edit"),
        (["edit", "model.pt", "--rank"], "option '--rank' requires an argument"),
        (["edit", "a.pt", "b.png", "c.png"], "unexpected: b.png c.png; there is one MODEL"),
        (
            ["explain", "--image", *(f"photos/{number}.png" for number in range(200))],
            "…; there is one MODEL, and a repeatable flag is written again for each value (--image and --scan",
        ),
        (["edit", "model.pt"], "edit needs a pair: --clean a.png --poisoned b.png"),
        (["edit", *PAIR], "which model? rectify edit model.pt"),
        (["localize"], "which model? rectify localize model.pt"),
        (
            ["localize", "model.pt", "--clean", "a.png"],
            "there is 1 clean image and 0 poisoned images: add --poisoned FILE\n",
        ),
        (
            ["edit", "model.pt", *PAIR, "--clean", "c.png", "--clean", "d.png"],
            "there are 3 clean images and 1 poisoned image: add --poisoned FILE 2 times\n",
        ),
        (["edit", "model.pt", "--poisoned", "b.png"], "0 clean images and 1 poisoned image: add --clean FILE\n"),
        (["edit", "model.pt", *PAIR, "--pairs", "p"], "or --pairs, not both"),
        (["evaluate", "model.pt"], "nothing to evaluate on: give --data DIR"),
        ([*EDIT, "--rank", "0"], "--rank must be auto or a whole number of at least 1, not '0'"),
        ([*EDIT, "--mode", "dynamc"], "--mode must be dynamic|static, not 'dynamc'; did you mean dynamic?"),
        ([*EDIT, "--format", "yaml"], "--format must be text|json|markdown|junit|github"),
        ([*EDIT, "--device", "gpu"], "--device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        ([*EDIT, "--batch-size", "0"], "--batch-size must be a whole number of at least 1"),
        ([*EDIT, "--seed", str(2**63)], "--seed must be a whole number from 0 to 9223372036854775807, not"),
        ([*EDIT, "--arch-arg", "width"], "--arch-arg must be k=v, not 'width'"),
        ([*EDIT, "--mean", "a,b"], "--mean must be numbers with commas"),
        ([*EDIT, "--input-size", "1,2"], "--input-size must be a number of pixels, or channels,height,width"),
        ([*EDIT, "--out-dtype", "float16"], "--out-dtype must be float32"),
        ([*EDIT, "--max-asr", "5"], "--max-asr must be a fraction in [0, 1], not 5; 5 percent is 0.05"),
        ([*EDIT, "--min-recovery", "-0.1"], "--min-recovery must be a fraction in [0, 1]"),
        ([*EDIT, "--min-accuracy", "nan"], "--min-accuracy must be a number, not 'nan'"),
        ([*EDIT, "--max-accuracy-drop", "inf"], "--max-accuracy-drop must be a number"),
        ([*EDIT, "--max-regression", "0.1"], "--max-regression needs --baseline"),
        ([*EDIT, "--baseline", "no.json"], "--baseline no.json cannot be read"),
        ([*EDIT, "--report", "report.pdf"], "--report report.pdf"),
        ([*EDIT, "--report", "no/report.json"], "no folder no"),
        ([*EDIT, "-o", "no/model.safetensors"], "no folder no; type: mkdir -p no"),
        ([*EDIT, "-o", "model.pt", "--force"], "never overwritten: give -o another name"),
        ([*EDIT, "--delta", "model.pt", "--force"], "never overwritten: give --delta another name"),
        ([*EDIT, "--delta", "model.pt", "--dry-run"], "never overwritten: give --delta another name"),
        ([*EDIT, "--report", "m.json", "--baseline", "m.json"], "never overwritten: give --report another name"),
        ([*EDIT, "--delta", "d", "-o", "d"], "--delta and --out name the same file"),
        ([*EDIT, "--report", "o.json", "-o", "o.json"], "--report and --out name the same file: o.json"),
        ([*EDIT, "--report", "o.json", "-o", "../{here}/o.json"], "--report and --out name the same file: o.json"),
        ([*EDIT, "--report", "a.md", "--report", "./d.md", "--delta", "d.md"], "--report and --delta name the same"),
        ([*EDIT, "--apply", "d.safetensors", "--rank", "1"], "so --rank has nothing to decide"),
        ([*EDIT, "--apply", "d.safetensors", "--delta", "e"], "so --delta has nothing to decide"),
        ([*EDIT, "--config", "no.yaml"], "--config: no such file: no.yaml; this folder holds model.pt"),
        ([*EDIT, "-o", "-"], "-o -: it is written as a file, not on stdout: give a file name"),
        ([*EDIT, "--delta", "-"], "--delta -: it is written as a file"),
        (["explain", "model.pt", *PAIR, "--out", "-"], "give one, such as --out maps"),
        ([*EDIT, "--max-asr", "5%"], "--max-asr must be a fraction in [0, 1], not '5%'; 5 percent is 0.05"),
    ],
)
def test_usage_errors_are_one_line_and_2(rectify_, library, words: list[str], message: str) -> None:
    assert_one_error(rectify_(*(word.replace("{here}", Path.cwd().name) for word in words)), message)
    assert library.asked == {}


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only Linux has a folder that takes no file, even of root")
@pytest.mark.parametrize(
    "words",
    [
        [*EDIT, "-o", "/proc/o.safetensors"],
        [*EDIT, "--delta", "/proc/d.safetensors", "--dry-run"],
        [*EDIT, "--report", "/proc/r.json"],
        ["explain", "model.pt", *PAIR, "--out", "/proc/deep/maps"],
    ],
)
def test_a_folder_that_takes_no_file_is_told_before_the_work(rectify_, library, words: list[str]) -> None:
    message = f"cannot write {next(word for word in words if '/proc' in word)}: no file can be made in /proc ("
    assert_one_error(rectify_(*words), message)
    assert library.asked == {}
    assert rectify_(*EDIT, "-o", "/proc/o.safetensors", "--dry-run").code == 0  # writes no model


@pytest.mark.parametrize(
    ("folder", "words", "message"),
    [
        ("m", ["-o", "m"], "give -o a file name, such as m/out.safetensors"),
        ("d", ["--delta", "d"], "give --delta a file name, such as d/delta.safetensors"),
        ("r.html", ["--report", "r.html"], "give --report a file name, such as r.html/report.html"),
        ("r.pairs.png", ["--report", "r.md"], "give --report r.md, whose picture it would be, another name"),
    ],
)
def test_a_folder_in_the_way_is_told_with_the_flag_to_change(
    rectify_, library, folder: str, words: list[str], message: str
) -> None:
    Path(folder).mkdir()
    assert_one_error(rectify_(*EDIT, *words), f"{folder} is a folder: {message}")
    assert library.asked == {}


def test_a_link_that_leads_to_itself_is_replaced_like_any_other(rectify_, library) -> None:
    for name in ("loop.json", "loop.safetensors"):
        Path(name).symlink_to(name)
    assert_one_error(rectify_(*EDIT, "-o", "loop.safetensors"), "loop.safetensors exists already: add --force")
    said = rectify_(*EDIT, "-o", "loop.safetensors", "--force", "--report", "loop.json")
    assert said.code == 0, said.err
    assert not Path("loop.json").is_symlink()


def test_an_existing_output_needs_force(rectify_, library) -> None:
    Path("model.rectified.safetensors").write_bytes(b"earlier")
    assert_one_error(rectify_(*EDIT), "--force")
    assert rectify_(*EDIT, "--force").code == 0
    assert rectify_(*EDIT, "--dry-run").code == 0
    Path("delta.safetensors").write_bytes(b"earlier")
    for more in ([], ["--dry-run"]):
        said = rectify_(*EDIT, "-o", "new", "--delta", "delta.safetensors", *more)
        assert_one_error(said, "add --force to replace it, or give --delta another name")


def test_the_delta_of_a_settings_file_is_not_written_where_one_is_applied(rectify_, library) -> None:
    """It is the file of the search; `--apply` of this very file would otherwise be told not to overwrite it."""
    Path("rectify.yaml").write_text("edit: {delta: delta.safetensors}\n")
    Path("delta.safetensors").write_bytes(b"factors")
    said = rectify_("edit", "model.pt", "--apply", "delta.safetensors", "-o", "x.safetensors")
    assert said.code == 0, said.err
    assert library.asked["editing"].delta is None
    assert library.asked["editing"].apply == Path("delta.safetensors")


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", "[" * 100_000, '{"metrics": 1, "schema_version": 1}'])
def test_a_baseline_that_is_no_report_is_2(rectify_, library, text: str) -> None:
    Path("baseline.json").write_text(text)
    assert_one_error(rectify_(*EDIT, "--baseline", "baseline.json"), "--baseline baseline.json")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({}, "holds no accuracy, attack success or recovery"),
        ({"after": 5}, "metrics.after is no section of figures"),
        ({"after": {"asr": 0.1}, "holdout": 5}, "metrics.holdout is no section of figures"),
        ({"after": {"asr": 0.1}, "holdout": {"before": [1]}}, "metrics.holdout.before is no section of figures"),
        ({"before": {"asr": 7}}, "metrics.before.asr is 7, no fraction from 0 to 1"),
        ({"after": {"asr": "x"}}, "metrics.after.asr is 'x', no fraction"),
        ({"after": {"recovery": True}}, "metrics.after.recovery is True, no fraction"),
        ({"after": {"accuracy": float("nan")}}, "metrics.after.accuracy is nan, no fraction"),
        ({"holdout": {"after": {"asr": 10**400}}}, "metrics.holdout.after.asr is 1000"),
    ],
)
def test_a_baseline_with_odd_figures_is_2_before_the_work(rectify_, library, metrics: dict, message: str) -> None:
    Path("baseline.json").write_text(json.dumps({"schema_version": 1, "metrics": metrics}))
    assert_one_error(rectify_(*EDIT, "--baseline", "baseline.json"), message)
    assert library.asked == {}


@pytest.mark.parametrize("version", [2, 99, 0, "x", "1", True, None, 1.5])
def test_a_baseline_of_an_unknown_version_is_2(rectify_, library, version: object) -> None:
    Path("baseline.json").write_text(json.dumps({"schema_version": version, "metrics": {"after": {"asr": 0.1}}}))
    message = f"is a report of schema_version {version!r}, and this rectify knows those up to 1: write it anew"
    assert_one_error(rectify_(*EDIT, "--baseline", "baseline.json"), message)


def test_a_baseline_with_a_byte_order_mark_is_read(rectify_, library) -> None:
    text = json.dumps({"schema_version": 1, "metrics": {"after": {"asr": 0.1}}})
    Path("baseline.json").write_text(text, encoding="utf-8-sig")
    assert rectify_(*EDIT, "--baseline", "baseline.json").code == 0


def test_a_baseline_that_may_never_end_is_2(rectify_, library, fifo) -> None:
    for path in (fifo, "/dev/zero"):
        assert_one_error(rectify_(*EDIT, "--baseline", path), f"{path} is neither a file nor a folder")


def test_a_baseline_is_compared(rectify_, library) -> None:
    assert rectify_(*EDIT, "--report", "baseline.json").code == 0
    assert rectify_(*EDIT, "--force", "--baseline", "baseline.json").code == 0
    library.figures["accuracy"] = 0.85
    assert rectify_(*EDIT, "--force", "--baseline", "baseline.json").code == 1
    assert rectify_(*EDIT, "--force", "--baseline", "baseline.json", "--max-regression", "0.06").code == 0
    assert library.asked["options"].baseline == json.loads(Path("baseline.json").read_text())


MAIN = "import sys; from rectify.cli.app import main; sys.exit(main(sys.argv[1:]))"


def test_as_a_module_and_from_any_folder(tmp_path) -> None:
    said = run_process(["edti"], tmp_path)
    assert said == Said(2, "", "error: no such command: edti; did you mean edit?\n")


@pytest.mark.parametrize("words", [["--help"], ["edit", "--help"], ["edit", "--show-config"]])
def test_a_reader_that_goes_away_is_no_error(tmp_path, words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = into(write, words, tmp_path)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def into(stdout, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command line with its stdout sent there."""
    command = [sys.executable, "-c", MAIN, *words]
    more = {"stderr": subprocess.PIPE, "text": True, "timeout": HANG, "check": False}
    return subprocess.run(command, stdout=stdout, env=environment(), cwd=folder, **more)


def test_a_full_disk_behind_stdout_is_2(tmp_path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = into(full, ["edit", "--show-config"], tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: stdout cannot be written: No space left on device\n"


@pytest.mark.parametrize("closed", ["1", "2"])
def test_closed_streams(tmp_path, closed: str) -> None:
    command = ["bash", "-c", f'"$0" -c "$1" edit {closed}>&-', sys.executable, MAIN]
    more = {"capture_output": True, "text": True, "timeout": HANG, "check": False}
    done = subprocess.run(command, env=environment(), cwd=tmp_path, **more)
    assert (done.returncode, done.stdout) == (2, "")
    error = "error: edit needs a pair: "
    assert done.stderr == "" if closed == "2" else done.stderr.startswith(error)


def test_main_takes_its_words_from_the_process(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["rectify", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("rectify ")


SLEEPING = """
import signal, sys, time
from rectify.cli import app, localize
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
def sleep(settings, terminal):
    print("working", file=sys.stderr, flush=True)
    while True:
        time.sleep(60)
localize.run = sleep
sys.exit(app.main(["localize", "model.pt", "--format", "json"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm(tmp_path, number: signal.Signals) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", SLEEPING]
    with subprocess.Popen(command, text=True, env=environment(), cwd=tmp_path, **pipes) as process:
        assert process.stderr is not None and process.stderr.readline() == "working\n"
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=HANG)
        finally:
            process.kill()  # it would sleep on, and this test wait for it
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
