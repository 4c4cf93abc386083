"""Read a store in a bucket again and again until a file appears: fail where a volume is not whole.

A volume is whole where its values have the digest that its metadata state. One whose metadata changed while it was
read is read again next time; that is the moment at which it was replaced.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import etl
from etl.digests import volume_digest
from etl.errors import StoreError
from etl.read.catalog import read_node


def poll(store, over):
    whole = problems = 0
    while not over.exists():
        time.sleep(0.1)
        try:
            volumes = [volume for patient in etl.open_store(store).values() for volume in patient.values()]
        except StoreError:
            # Before the first root is there, and while the server is away.
            continue
        for volume in volumes:
            try:
                found = volume_digest(volume[:])
            except Exception as error:  # noqa: BLE001 - judged below
                found = f"{type(error).__name__}: {error}"
            try:
                before, after = volume.attributes, etl.open_store(store)[volume.patient_id][volume.key].attributes
                read_node(store, volume.node)
            except (StoreError, KeyError):
                continue
            stated = before["provenance"]["volume_digest"]
            if found == stated:
                whole += 1
            elif after["provenance"] == before["provenance"]:
                problems += 1
                print(volume.node, found, stated, file=sys.stderr)
    print(whole)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(poll(sys.argv[1], Path(sys.argv[2])))
