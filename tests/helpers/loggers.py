"""Files of loggers, made with their own packages."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TIME = 1.76e9
"""Of step 0; each step comes a second later."""


def write_events(folder: Path, values: Sequence[tuple[int, str, float]], as_tensors: bool = False) -> Path:
    """Writes an event file of tensorboard, its scalars as torch's `add_scalar` has them, in the old or the new style.

    Args:
        folder: Made where it is not there.
        values: Step, tag and value of each.
        as_tensors: The new style.

    Returns:
        The file.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for step, tag, value in values:
        if as_tensors:
            plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
            tensor = TensorProto(dtype=1, float_val=[value])
            item = Summary.Value(tag=tag, tensor=tensor, metadata=plugin)
        else:
            item = Summary.Value(tag=tag, simple_value=value)
        writer.add_event(Event(step=step, wall_time=TIME + step, summary=Summary(value=[item])))
    writer.close()
    return max(folder.glob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime_ns)


def wandb_log(records: Sequence[bytes]) -> bytes:
    """Returns a LevelDB log as wandb writes it: pieces of records in blocks of 32 KiB."""
    log = b":W&B\xe1\xbe\x00"
    for record in records:
        first = True
        while True:
            left = 32768 - len(log) % 32768
            if left < 7:
                log += b"\0" * left
                continue
            piece, record = record[: left - 7], record[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not record]
            log += struct.pack("<IHB", 0, len(piece), kind) + piece
            first = False
            if not record:
                break
    return log


def wandb_run(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], exit_code: int = 0) -> bytes:
    """Returns the record of a run of wandb.

    Args:
        config: Values by key.
        rows: Each a call of `log`; a value of `outer/inner` is nested. The last may have `_step` and `_timestamp`.
        exit_code: Of the program.
    """
    from wandb.proto import wandb_internal_pb2 as pb

    run, ended, records = pb.Record(), pb.Record(), []
    for key, value in config.items():
        run.run.config.update.add(key=key, value_json=json.dumps(value))
    ended.exit.exit_code = exit_code
    for step, row in enumerate(rows):
        record = pb.Record()
        for key, value in {"_step": step, "_timestamp": TIME + step, **row}.items():
            named = {"nested_key": key.split("/")} if "/" in key else {"key": key}
            record.history.item.add(**named, value_json=json.dumps(value))
        records.append(record)
    return wandb_log([item.SerializeToString() for item in (run, *records, ended)])
