"""A process that yields is below others for the CPU and the disk, and stays there."""

from __future__ import annotations

import subprocess
import sys

import psutil

from recserve_server_ext.common.priority import yield_to_others


def test_a_process_yields_the_cpu_and_the_disk() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        yield_to_others(child.pid)
        assert process.nice() == 10
        assert process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
        process.nice(15)
        yield_to_others(child.pid)
        assert process.nice() == 15  # never raised
        child.communicate(b"\n")
    yield_to_others(child.pid)  # it has ended


def test_threads_that_a_process_starts_afterwards_yield_too() -> None:
    """As those of numpy and torch, where a command yields before it imports them."""
    script = """
import os, threading
from recserve_server_ext.common.priority import yield_to_others

yield_to_others()
thread = threading.Thread(target=lambda: print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["10"]
