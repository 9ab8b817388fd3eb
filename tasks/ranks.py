"""One of the processes that train a model together; a program that `tasks.launch` starts.

torchrun ... -m tasks.ranks FOLDER        FOLDER/request.json says what to do
"""

import importlib
import json
import os
import sys
import threading
import time
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ConfigDict, validate_call

from defenses.ranks import agreed, rank
from hardening.log import Checkpoint
from tasks.step import Run
from tasks.store import Artifact, open_store

REQUEST, OUTPUTS, LAST = "request.json", "outputs", "last"
"""In the folder: what to do, what it made, the numbers of the last epoch."""


class Member(Run):
    """The run of one process: the first one writes checkpoints, all go on from the same."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, once."""
        if rank() == 0:
            super().save(checkpoint)

    def restore(self) -> Checkpoint | None:
        """The checkpoint that the first process finds: it may write the next one meanwhile."""
        return agreed(super().restore() if rank() == 0 else None)


def main(folder: Path) -> int:
    """Take part; the exit code. What goes wrong is told in a file, in one line."""
    request = json.loads((folder / REQUEST).read_text())
    threading.Thread(target=_watch, args=(request["owner"],), daemon=True).start()
    try:
        _join(folder)
        _take_part(folder, request)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        path = folder / f"error-{os.environ['RANK']}.json"
        path.write_text(json.dumps([type(error).__name__, lines[0]]))
        raise
    dist.destroy_process_group()
    return 0


def _join(folder: Path) -> None:
    index, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(index % gpus)
    dist.init_process_group(
        "nccl" if gpus >= size else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=index,
        world_size=size,
    )


def _take_part(folder: Path, request: dict[str, Any]) -> None:
    step = getattr(importlib.import_module(request["module"]), request["name"])
    say = _say if rank() == 0 else _nothing
    run = Member(open_store(request["store"]), request["key"], request["label"], say)
    inputs = [Artifact.model_validate(given) for given in request["inputs"]]
    function = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(step.function)
    # Progress, too, is told to whoever started this.
    with redirect_stderr(sys.stdout if rank() == 0 else sys.stderr):
        made = function(run, *inputs, **request["settings"])
    if rank() == 0:
        (folder / OUTPUTS).mkdir()
        for name, data in made.items():
            (folder / OUTPUTS / name).write_bytes(data)
        (folder / LAST).write_text(run.last)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _nothing(text: str) -> None:
    """Say nothing: the first process speaks for all."""


def _watch(owner: int) -> None:
    """End when the launcher or who called it has: nobody waits for the result any more."""
    launcher = os.getppid()
    with suppress(ProcessLookupError):
        while os.getppid() == launcher:
            os.kill(owner, 0)  # asks whether it lives
            time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
