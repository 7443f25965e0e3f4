#!/usr/bin/env python3
"""Prints the records of a log directory as kafka-python decodes them, line for line as examples/dump.rs prints them.

    decode.py DIR [PARTITION-PREFIX]

Checks every batch's CRC. Knows nothing of transactions: every data record counts as committed. Needs the packages
kafka-python, lz4, zstandard and python-snappy. Exit code 1 when a file is not decoded to its end.
"""

import base64
import json
import pathlib
import sys

from kafka.record.memory_records import MemoryRecords


def text(data):
    return None if data is None else base64.b64encode(data).decode()


def decode(path, partition, out):
    data = path.read_bytes()
    batches = MemoryRecords(data)
    end = 0
    while batches.has_next():
        batch = batches.next_batch()
        if not batch.validate_crc():
            sys.exit(f"{path}: CRC is wrong at byte {end}")
        end += batch.size_in_bytes
        if batch.is_control_batch:
            continue
        kind = "LogAppendTime" if batch.timestamp_type else "CreateTime"
        for record in batch:
            line = {
                "type": "record",
                "partition": partition,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": text(record.key),
                "value": text(record.value),
                "headers": [[key, text(value)] for key, value in record.headers],
                "timestamp_type": kind,
                "committed": True,
            }
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
    if end != len(data):
        sys.exit(f"{path}: {len(data) - end} bytes after the last batch")


def main():
    directory = pathlib.Path(sys.argv[1])
    prefix = sys.argv[2] if len(sys.argv) > 2 else ""
    sys.stdout.reconfigure(encoding="utf-8")
    partitions = [d for d in directory.iterdir() if d.is_dir() and d.name.startswith(prefix)]
    for partition in sorted(partitions, key=lambda d: d.name):
        for log in sorted(partition.glob("*.log")):
            decode(log, partition.name, sys.stdout)


if __name__ == "__main__":
    main()
