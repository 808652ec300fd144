"""Run the tests with the code paths of the libraries for older processors, and print which code paths were used.

    python -m tests.slow.instruction_sets [--quick] [--tolerances] [--only NAME] [TESTS...]

Runs TESTS once for each instruction set of this processor except the newest. Environment variables limit oneDNN (of
torch and OpenVINO), ATen, MKL, OpenBLAS (of NumPy, SciPy and FAISS), FAISS and NumPy to this instruction set. TESTS are
by default all tests; ``--quick``: only those that depend most on the processor, within a minute on two cores.
``--tolerances`` also runs the tests without a limit, and prints a Markdown table of every tolerance: bound, reason (as
in tests/tolerances.md, "?" if none is given there), and the largest ratio of error to bound for each instruction set.
The exit code is 1 if a test fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[2]
TOLERANCES = ROOT / "tests" / "tolerances.md"
QUICK = (
    "tests/heads/test_rowwise.py",
    "tests/heads/test_subset_invariance.py",
    "tests/engines/test_int8.py",
    "tests/engines/test_plain.py",
)


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set of x86 processors, and for each library the setting that limits the library to this set.

    ``flag``: the name of the set in /proc/cpuinfo. ``newer``: a regular expression that matches NumPy's names of newer
    instruction sets; the matching sets are switched off.
    """

    name: str
    flag: str
    onednn: str
    aten: str
    mkl: str
    openblas: str
    faiss: str
    newer: str


SETS = (
    # SSE4.1 is not among the tested sets, because OpenVINO does not run with ONEDNN_MAX_CPU_ISA=SSE41. With
    # ONEDNN_MAX_CPU_ISA=AVX, OpenVINO uses its SSE4.2 code.
    InstructionSet("avx", "avx", "AVX", "default", "AVX", "Sandybridge", "generic", "X86_V3|X86_V4|AVX2|AVX512|FMA3|F16C|BMI"),
    InstructionSet("avx2", "avx2", "AVX2", "avx2", "AVX2", "Haswell", "avx2", "X86_V4|AVX512"),
    InstructionSet("avx512", "avx512bw", "AVX512_CORE", "avx512", "AVX512", "SkylakeX", "avx512", "AVX512_(ICL|SPR|VNNI)"),
    InstructionSet("avx512-vnni", "avx512_vnni", "AVX512_CORE_VNNI", "avx512", "AVX512_E1", "SkylakeX", "avx512", "$^"),
    InstructionSet("amx", "amx_int8", "AVX512_CORE_AMX", "avx512", "AVX512_E4", "SapphireRapids", "avx512_spr", "$^"),
)  # fmt: skip


def of_this_processor() -> list[InstructionSet]:
    """Return the instruction sets of this processor, oldest first; an empty list if the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return []
    flags = next((set(line.split()) for line in text.splitlines() if line.startswith("flags")), set())
    return [each for each in SETS if each.flag in flags]


def switches(chosen: InstructionSet | None) -> dict[str, str]:
    """Return environment variables that limit a process to the instruction set ``chosen`` (None: no limit)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if chosen is None:
        return environment
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__  # type: ignore[attr-defined]

    newer = [name for name in __cpu_dispatch__ if re.match(chosen.newer, name) and __cpu_features__.get(name)]
    return {
        **environment,
        "ONEDNN_MAX_CPU_ISA": chosen.onednn,
        "ATEN_CPU_CAPABILITY": chosen.aten,
        "MKL_ENABLE_INSTRUCTIONS": chosen.mkl,
        "OPENBLAS_CORETYPE": chosen.openblas,
        "FAISS_OPT_LEVEL": chosen.faiss,
        # FAISS 1.14 and later read FAISS_SIMD_LEVEL instead of FAISS_OPT_LEVEL.
        "FAISS_SIMD_LEVEL": "NONE" if chosen.faiss == "generic" else chosen.faiss.upper(),
        **({"NPY_DISABLE_CPU_FEATURES": " ".join(newer)} if newer else {}),
    }


def in_effect() -> dict[str, str]:
    """Return the instruction set that each library reports in this process."""
    import faiss
    import numpy as np
    import scipy.linalg  # noqa: F401
    import threadpoolctl
    import torch
    from numpy._core._multiarray_umath import __cpu_features__  # type: ignore[attr-defined]

    from featstore.engines import open_engine
    from tests.engines.tiny import tiny_backbone

    np.ones((2, 2)) @ np.ones((2, 2))
    named = {
        "numpy.libs": "OpenBLAS of NumPy",
        "scipy.libs": "OpenBLAS of SciPy",
        "faiss_cpu.libs": "OpenBLAS of FAISS",
    }
    found = {
        name: str(library.get("architecture"))
        for library in threadpoolctl.threadpool_info()
        for part, name in named.items()
        if part in library["filepath"]
    }
    loaded = [name for name in sys.modules if name.startswith("faiss.swigfaiss")]
    return {
        "ATen": torch.backends.cpu.get_cpu_capability(),
        "FAISS": f"{faiss.get_compile_options().strip()} ({', '.join(sorted(loaded))})",
        "NumPy": " ".join(name for name, there in __cpu_features__.items() if there and re.match("X86_V|AVX", name)),
        **found,
        **{
            f"OpenVINO, {name}": str(
                open_engine(tiny_backbone(), engine=name, device="cpu").provenance()["instruction_set"]
            )
            for name in ("openvino", "openvino-int8")
        },
    }


def tell(chosen: InstructionSet | None) -> dict[str, str]:
    """Start a process limited to ``chosen``; return the instruction set that each library reports in this process."""
    code = "import json; from tests.slow import instruction_sets as s; print(json.dumps(s.in_effect()))"
    found: dict[str, str] = json.loads(_output(code, switches(chosen)).strip().splitlines()[-1])
    # Use another process for the verbose mode of oneDNN, because OpenVINO fails in this mode.
    code = (
        "import torch; torch.nn.functional.conv2d(torch.ones(2, 64, 32, 32), torch.ones(64, 64, 3, 3)); "
        "torch.ones(64, 64) @ torch.ones(64, 64)"
    )
    said = _output(code, {**switches(chosen), "ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"})
    for name, pattern in (
        ("oneDNN of torch", r"info,cpu,isa:(.*)"),
        ("MKL", r"MKL_VERBOSE .*architecture (.*?),? (?:Lnx|Win)"),
    ):
        match = re.search(pattern, said)
        found[name] = match.group(1) if match else "does not tell"
    return found


def _output(code: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def run(chosen: InstructionSet | None, tests: tuple[str, ...], shapes: int, cache: Path, record: Path | None) -> int:
    """Run pytest on ``tests`` with the instruction set ``chosen``; return its exit code.

    For each tolerance, the largest ratio of error to bound is written to the file ``record``.
    """
    command = [sys.executable, "-m", "pytest", *tests]
    environment = {**switches(chosen), "FEATSTORE_SHAPES": str(shapes)}
    # Use one cache of compiled code per instruction set: torch does not distinguish code for different sets.
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    if record is not None:
        command += ["-p", "tests.slow.tolerances"]
        environment["FEATSTORE_TOLERANCES"] = str(record)
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def reasons(text: str) -> dict[tuple[str, str], str]:
    """Return the reason of each tolerance, by test and bound; ``text`` is the content of tests/tolerances.md."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {(row[0], row[1]): row[2] for row in rows if "::" in row[0]}


def table(records: dict[str, Path], known: dict[tuple[str, str], str]) -> str:
    """Return a Markdown table of the tolerances: test, bound, reason, and the largest ratio of error to bound for each
    instruction set.

    If a test has more than three absolute bounds with the same relative bound, the test computes them from its data;
    the table then has one line with "computed" for all of them.
    """
    found = [
        (name, test, *bound.partition(", atol=")[::2], share)
        for name, path in records.items()
        for line in (path.read_text(encoding="utf-8").splitlines() if path.exists() else [])
        for test, shares in json.loads(line).items()
        for bound, share in shares.items()
    ]
    bounds: dict[tuple[str, str], set[str]] = {}
    for _, test, relative, absolute, _ in found:
        bounds.setdefault((test, relative), set()).add(absolute)
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for name, test, relative, absolute, share in found:
        computed = len(bounds[test, relative]) > 3
        by_name = worst.setdefault((test, f"{relative}, atol={'computed' if computed else absolute}"), {})
        by_name[name] = max(share, by_name.get(name, 0.0))
    lines = [f"| test | bound | reason | {' | '.join(records)} |", "| --- | --- | --- |" + " --- |" * len(records)]
    for (test, bound), by_name in sorted(worst.items()):
        used = [f"{by_name[name]:.2g}" if name in by_name else "" for name in records]
        lines.append(f"| {test} | {bound} | {known.get((test, bound), '?')} | {' | '.join(used)} |")
    return "\n".join(lines)


@click.command()
@click.argument("tests", nargs=-1)
@click.option("--quick", is_flag=True, help="Only the tests that depend most on the processor.")
@click.option("--tolerances", is_flag=True, help="Run as it is too, and print how much of each tolerance was used.")
@click.option("--only", help="One instruction set, by its name here.")
@click.option(
    "--records",
    "records_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --tolerances: a folder that keeps what was used; runs with it add to the table.",
)
def main(tests: tuple[str, ...], quick: bool, tolerances: bool, only: str | None, records_dir: Path | None) -> None:
    """Run the tests limited to each older instruction set, and print the results."""
    has = of_this_processor()
    older: list[InstructionSet | None] = [*has[:-1]]
    if tolerances:
        older.append(None)
    if only is not None:
        older = [each for each in has if each.name == only]
    click.echo(f"this processor: {', '.join(each.name for each in has) or 'does not tell its instruction sets'}")
    tests = tests or (QUICK if quick else ("tests",))
    newest = has[-1].name if has else "as it is"
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="featstore-sets-") as place:
        records: dict[str, Path] = {}
        for chosen in older:
            name = chosen.name if chosen else newest
            for library, state in tell(chosen).items():
                click.echo(f"{name}: {library}: {state}")
            records[name] = (records_dir or Path(place)) / name
            results[name] = run(
                chosen, tests, 20 if quick else 200, Path(place) / f"code-{name}", records[name] if tolerances else None
            )
        if tolerances:
            click.echo(table(records, reasons(TOLERANCES.read_text(encoding="utf-8"))))
    for name, code in results.items():
        click.echo(f"{name}: {'passed' if code == 0 else f'FAILED ({code})'}")
    sys.exit(any(results.values()))


if __name__ == "__main__":
    main()
