"""How fast a checkpoint is read, over what `dd` reads of the same files, and how long a server takes to be ready, over
what importing Megatron-Bridge and loading with it takes anyway.
"""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.gpu.serving import Host, serving
from bench.report import console, table
from bench.start import bare_load

TARGET = 0.7
MORE_SECONDS = 5.0
_READ = re.compile(r"read [\d.]+ [MG]B in [\d.]+ s, ([\d.]+) GB/s")


def run(host: Host, checkpoint: Path) -> dict[str, Any]:
    """Load from the disk, where the page cache can be emptied, and from the page cache."""
    results: dict[str, Any] = {}
    for name, prepare in (("disk", _empty_page_cache), ("page cache", _fill_page_cache)):
        if not prepare(checkpoint):
            console.print(f"{name}: not measured, the page cache cannot be emptied", style="dim")
            continue
        dd = _dd(checkpoint)
        prepare(checkpoint)
        with serving(host, f"loading-{name.replace(' ', '-')}", checkpoint, kv_cache_gib=4.0) as running:
            running.wait_ready()
            read = [float(found[1]) for line in running.log if (found := _READ.search(line))]
        steps = [line for line in running.log if "rank 0" in line]
        results[name] = {"dd_gb_s": dd, "read_gb_s": read, "ready_seconds": running.ready_seconds, "log": steps}
        prepare(checkpoint)
        results[name]["bare_seconds"] = bare_load(running.repository, Path(host.rank_python))
    table(
        "GB/s of the same files",
        ["from", "dd", "the rank", "ratio", "target", "ready, s", "bare import and load, s", "target"],
        [_sequence(name, result) for name, result in results.items()],
    )
    return results


def _sequence(name: str, result: dict[str, Any]) -> list[str]:
    dd, read, ready, bare = (result[key] for key in ("dd_gb_s", "read_gb_s", "ready_seconds", "bare_seconds"))
    rates = [f"{dd:.2f}", f"{read[0]:.2f}", f"{read[0] / dd:.2f}", f"{TARGET}"]
    return [name, *rates, f"{ready:.1f}", f"{bare['total']:.1f}", f"{MORE_SECONDS:g} more"]


def _dd(checkpoint: Path) -> float:
    """Return the GB/s of `dd` over all files of the checkpoint."""
    files = sorted(checkpoint.rglob("*.distcp"))
    started = time.perf_counter()
    for file in files:
        subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=16M"], check=True, capture_output=True)
    return sum(file.stat().st_size for file in files) / 1e9 / (time.perf_counter() - started)


def _empty_page_cache(checkpoint: Path) -> bool:
    del checkpoint
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def _fill_page_cache(checkpoint: Path) -> bool:
    _dd(checkpoint)
    return True
