#!/usr/bin/env python3
"""Embed every view of a real image pack and keep them as points for benchmarks/selection.py.

    python benchmarks/view_embeddings.py CXRLung cxrlung.npy
    python benchmarks/selection.py --data cxrlung.npy

The autoencoder learns from the pack itself, 6 epochs. A volume gives a point per view.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from packs import pack_folder

from nnunetv2_xssr.commands.running import add_device, run
from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.encoders.mae import embed_views, load_encoder
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.pretrain.processes import start
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import pretrain
from nnunetv2_xssr.records.files import read_json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", help="CXRLung, NucleiDSB or Hippocampus3D")
    parser.add_argument("file", type=Path, help="the .npy file to write")
    add_device(parser)
    args = parser.parse_args()
    return run("view_embeddings.py", lambda: write_points(args.pack, args.file, resolve_device(args.device)))


def write_points(pack: str, file: Path, device: str) -> None:
    channels = read_json(pack_folder(pack) / "dataset.json")["channel_names"]
    with tempfile.TemporaryDirectory() as folder:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[variable] = folder
        pool = open_pool(str(pack_folder(pack) / "imagesTr"))
        views = prepare_views(pool, channel_names=tuple(channels[number] for number in sorted(channels, key=int)))
        trained = pretrain([views], settings=Settings(), fabric=start(device), resume=False)
        encoder = load_encoder(trained, device=device)
        points = np.concatenate([embed_views(encoder, case) for case in views.rows])[:, : encoder.layout.last]
    np.save(file, points)
    print(f"wrote {file}: {len(points)} points from {len(pool)} cases")


if __name__ == "__main__":
    sys.exit(main())
