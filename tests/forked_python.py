"""A ``python`` for subprocess tests that starts in milliseconds: each call is forked from a server with warm imports.

A command line of the package spends about four seconds of CPU time on importing torch and transformers. The executable
that :func:`python` returns takes ``-m MODULE`` or ``-c CODE`` like Python itself, hands its open files, folder and
environment to a server, and ends with the exit status of the process that the server forks; that process gets the
signals that it gets, and is killed with its process group where it is killed. With FORKED_PYTHON_CHILDREN=yes what that
process starts with its own :data:`sys.executable` (a server's worker, jobs on SLURM) is forked from the server too; not
for submitit_local and joblib, which look a process up by its id. Use :data:`sys.executable` instead where a test is
about imports, or about environment variables that a library reads on import."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import weakref

# Modules that the commands import; none of them runs torch operations or starts threads on import.
PRELOADED = [
    "hydra._internal.hydra",
    "matplotlib.backends.backend_agg",
    "pytorch_lightning",
    "scipy.stats",
    "sklearn.metrics",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "bam_lightning.analysis.tables",
    "bam_lightning.inference.predictor",
    "bam_lightning.recipes.runner",
]
SHORT = ("analysis.job_report", "recipes.predictions")  # changed where FORKED_PYTHON_REPORTS=short
HIGH = 500  # above the numbers of all files that a test opens


@functools.cache
def python() -> str:
    """Return the path of the executable; the first call starts the server, which ends with this process.

    Processes that this one starts afterwards use its server.
    """
    import atexit
    import shutil
    import subprocess
    import tempfile

    if "FORKED_PYTHON" in os.environ:
        return os.environ["FORKED_PYTHON"]
    folder = tempfile.mkdtemp()  # a socket's path must be short
    path = os.path.join(folder, "python")
    with open(path, "w") as file:
        file.write(
            f"#!{sys.executable} -SE\nimport sys\nsys.path.insert(0, {os.path.dirname(__file__)!r})\n"
            f"import forked_python\nforked_python.client({folder + '/socket'!r})\n"
        )
    os.chmod(path, 0o755)
    with socket.socket(socket.AF_UNIX) as listener:  # who calls before the server has imported all waits
        listener.bind(folder + "/socket")
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # a stream that was made for a file would ask the client's pipe for its position
            cwd="/",
            pass_fds=[listener.fileno()],
        )

    def stop() -> None:
        server.communicate()  # closes its input, on which it ends
        shutil.rmtree(folder)

    atexit.register(stop)
    os.environ["FORKED_PYTHON"] = path
    return path


def client(address: str) -> None:
    """Have the server run this process's command line, and exit as it does."""
    files = [number for number in map(int, os.listdir("/proc/self/fd")) if _is_open(number)]
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        words = [sys.argv[0], sys.argv[1:], files, os.getcwd(), dict(os.environ)]
        order = json.dumps(words).encode("utf-8", "surrogateescape")
        socket.send_fds(line, [len(order).to_bytes(8, "big")], files)
        line.sendall(order)
        with line.makefile() as answers:
            child, sent = int(answers.readline()), [signal.SIGKILL]

            def forward(got: int, _: object) -> None:
                sent.append(signal.Signals(got))
                os.kill(child, got)

            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                signal.signal(number, forward)
            status = answers.readline()
    if not status:  # that process was killed
        with contextlib.suppress(OSError):
            signal.signal(sent[-1], signal.SIG_DFL)
        os.kill(os.getpid(), sent[-1])
    sys.exit(int(status))


def _is_open(number: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.fstat(number))
    return False


def serve(listener: socket.socket) -> None:
    """Fork one process per connection, until the input of this process ends."""
    import gc
    import importlib
    import select

    for name in [*PRELOADED, *(f"bam_lightning.{name}" for name in SHORT)]:
        importlib.import_module(name)
    _generate_demo()
    _compose_experiments()
    for finalizer in list(weakref.finalize._registry):  # torch's operators take a fifth of a second to end
        finalizer.atexit = False
    gc.freeze()  # else garbage collection in a child copies every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps children
    with listener:
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            line, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _child(line)
            line.close()


def _generate_demo() -> None:
    """Generate the demo scale's rows and texts once, which takes a job a second or two; children inherit them."""
    import yaml

    from bam_lightning.config.compose import conf_dir
    from bam_lightning.data.demo_tasks import DEMO_TASKS, generate_sentences, generate_splits

    encoder = yaml.safe_load((conf_dir() / "encoder" / "demo.yaml").read_text())
    generate_sentences(encoder["pretraining"]["sentences"], 0)
    for kind in DEMO_TASKS:
        task = yaml.safe_load((conf_dir() / "task" / f"generated_{kind}.yaml").read_text())
        generate_splits(kind, task["train_rows"], task["dev_rows"], 0)


def _compose_experiments() -> None:
    """Compose what the documentation's commands compose most; children inherit the trees."""
    import warm_hydra
    from bam_lightning.config.compose import compose

    warm_hydra.install()
    for experiment in ("single", "multi", "single_multi"):
        compose([f"+experiment={experiment}", "+debug=short"])


def _child(line: socket.socket) -> None:
    """Run the command that the connection sends, tell it the exit status, and end."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        length, received, _, _ = socket.recv_fds(line, 8, 250)
        with line.makefile("rb") as orders:
            executable, arguments, files, folder, environment = json.loads(orders.read(int.from_bytes(length, "big")))
        line = socket.socket(fileno=_move(line.detach(), HIGH))  # out of the way of the numbers of the client's files
        for number, high in zip(files, [_move(number, HIGH) for number in received], strict=True):
            os.dup2(high, number)
            os.close(high)
        if environment.get("FORKED_PYTHON_CHILDREN") == "yes":
            sys.executable = executable
            multiprocessing.set_executable(executable)
        line.sendall(b"%d\n" % os.getpid())
        threading.Thread(target=_end_with_client, args=(line,), daemon=True).start()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        status = _run(arguments)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):  # the command has closed it
                stream.flush()
        line.sendall(b"%d\n" % status)
        os._exit(status)


def _move(number: int, least: int) -> int:
    """Return another number, at least ``least``, of an open file, whose own is free then."""
    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, least)
    os.close(number)
    return moved


def _end_with_client(line: socket.socket) -> None:
    """Kill this process group when the client is gone, which says nothing while it lives."""
    line.recv(1)
    os.killpg(0, signal.SIGKILL)


def _run(arguments: list[str]) -> int:
    """Run ``-m MODULE ...``, ``-c CODE ...`` or a script as Python does; return the exit status."""
    import atexit
    import runpy
    import traceback
    import warnings

    if os.environ.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    if os.environ.get("FORKED_PYTHON_REPORTS") == "short":
        job_report, predictions = (sys.modules[f"bam_lightning.{name}"] for name in SHORT)
        job_report.plot, predictions.DRAWS = lambda *_: None, 20
    while arguments[0] in ("-u", "-B"):  # of torchrun
        arguments = arguments[1:]
    kind, what, *rest = arguments if arguments[0] in ("-m", "-c") else ("script", *arguments)
    sys.argv = [what if kind == "script" else kind, *rest]
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[0] = {"-m": os.getcwd(), "-c": ""}.get(kind, os.path.dirname(os.path.abspath(what)))
    try:
        if kind == "-m":
            sys.modules.pop(what, None)
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif kind == "script":
            runpy.run_path(what, run_name="__main__")
        else:
            exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
    return 0


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
