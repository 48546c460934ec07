#!/usr/bin/env python3
"""Speed of the autoencoder's training step and embedding beside other libraries', and of its loader.

    python benchmarks/pretrain.py step      # HF transformers' ViTMAE and MONAI's, where they are installed
    python benchmarks/pretrain.py loader    # beside decoding the same images from .b2nd, .png and .nii.gz

``loader`` decodes and prepares views in as many threads, one after the other in every round, from a warm disk cache.
``step`` compares how many floating-point operations a second are done, which is images a second at equal FLOPs: one
thread, views of 128 x 128 pixels, batches of 32, 60 % masked; every round runs all of them, and ratios are taken within
a round. The FLOPs are those of matrix products and convolutions, counted by torch.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402  (after the number of threads)
import torch  # noqa: E402
from packs import pack_folder  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from vit import ViTMaskedAutoencoder  # noqa: E402

from nnunetv2_xssr.images.pools import open_pool  # noqa: E402
from nnunetv2_xssr.images.read_ahead import read_ahead  # noqa: E402
from nnunetv2_xssr.images.reading import read_case  # noqa: E402
from nnunetv2_xssr.images.views import VIEW_SIZE, prepare_views  # noqa: E402
from nnunetv2_xssr.pretrain.mae import CELL, MaskedAutoencoder, random_visible  # noqa: E402
from nnunetv2_xssr.pretrain.training import ARCHITECTURE, MASK_RATIO, ViewSampler  # noqa: E402

BATCH, ROUNDS, REPEATS = 32, 5, 3
CELLS = VIEW_SIZE // CELL
WIDTH, DEPTH, HEADS, DECODER_WIDTH, DECODER_DEPTH = 192, 12, 3, 128, 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "loader"))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    {"step": compare_steps, "loader": compare_loader}[args.what]()


def ours():
    model = MaskedAutoencoder(input_channels=1, **ARCHITECTURE)
    visible = random_visible(BATCH, (CELLS, CELLS), mask_ratio=MASK_RATIO, generator=torch.Generator().manual_seed(0))
    return model, lambda x: model(x, visible), lambda x: model.encoder(x).mean((2, 3))


def plain_vit():
    model = ViTMaskedAutoencoder(1, CELLS)
    visible = random_visible(BATCH, (CELLS, CELLS), mask_ratio=MASK_RATIO, generator=torch.Generator().manual_seed(0))
    return model, lambda x: model(x, visible), lambda x: model.maps(x).mean((2, 3))


def transformers_vit():
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
            image_size=VIEW_SIZE, patch_size=CELL, num_channels=1, mask_ratio=MASK_RATIO, norm_pix_loss=True,
            decoder_hidden_size=DECODER_WIDTH, decoder_num_hidden_layers=DECODER_DEPTH,
            decoder_num_attention_heads=4, decoder_intermediate_size=4 * DECODER_WIDTH,
        )
    )  # fmt: skip

    def embed(x):
        model.vit.embeddings.config.mask_ratio = 0.0
        features = model.vit(x).last_hidden_state[:, 1:].mean(1)
        model.vit.embeddings.config.mask_ratio = MASK_RATIO
        return features

    return model, lambda x: model(x).loss, embed


def monai_vit():
    from monai.networks.nets import MaskedAutoEncoderViT

    model = MaskedAutoEncoderViT(
        1, VIEW_SIZE, CELL, WIDTH, 4 * WIDTH, DEPTH, HEADS, MASK_RATIO, DECODER_WIDTH, 4 * DECODER_WIDTH,
        DECODER_DEPTH, 4, spatial_dims=2, qkv_bias=True,
    )  # fmt: skip

    def loss(x):
        predicted, mask = model(x)
        target = nn.functional.pixel_unshuffle(x, CELL).flatten(2).transpose(1, 2)
        return (((predicted - target) ** 2).mean(-1) * mask).sum() / mask.sum()

    def embed(x):
        tokens = model.patch_embedding(x)
        return model.blocks(torch.cat((model.cls_token.expand(len(x), -1, -1), tokens), 1))[:, 1:].mean(1)

    return model, loss, embed


MODELS = {
    "ours, convolutional": ours,
    "a ViT on torch's attention": plain_vit,
    "transformers ViTMAE": transformers_vit,
    "MONAI MaskedAutoEncoderViT": monai_vit,
}


def compare_steps():
    torch.manual_seed(0)
    x = torch.randn(BATCH, 1, VIEW_SIZE, VIEW_SIZE)
    work, flops = {}, {}
    for name, make in MODELS.items():
        try:
            model, loss, embed = make()
        except ImportError as error:
            print(f"{name}: not installed ({error})")
            continue
        work[name] = (step_of(model, loss, x), embedding_of(model, embed, x))
        flops[name] = [count_flops(run) for run in work[name]]
    matrix = torch.randn(2048, 2048)
    rates, peak = {name: ([], []) for name in work}, []
    for _ in range(ROUNDS):
        peak.append(2 * 2048**3 / seconds(lambda: matrix @ matrix))
        for name, runs in work.items():
            for kind, run in enumerate(runs):
                rates[name][kind].append(flops[name][kind] / seconds(run))
    print("| model | step, GFLOP an image | images/s | FLOP/s: ours = 1 | of the GEMM's | embedding, GFLOP an image |"
          f" images/s | FLOP/s: ours = 1 | of the GEMM's |\n|{'---|' * 9}")  # fmt: skip
    reference = rates["ours, convolutional"]
    for name in work:
        cells = []
        for kind in range(2):
            rate = np.array(rates[name][kind])
            ratio, share = rate / np.array(reference[kind]), rate / np.array(peak)
            each = flops[name][kind] / BATCH
            cells += [f"{each / 1e9:.2f}", f"{np.median(rate) / each:.0f}"]
            cells += [f"{np.median(ratio):.2f} [{ratio.min():.2f} to {ratio.max():.2f}]", f"{np.median(share):.0%}"]
        print(f"| {name} | {' | '.join(cells)} |")


def step_of(model, loss, x):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def run():
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    return run


def embedding_of(model, embed, x):
    def run():
        with torch.inference_mode():
            embed(x)

    return run


def count_flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def seconds(run):
    """Shortest of a few runs: others on the machine make runs longer, never shorter."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def compare_loader():
    print("| images | decoding alone, cases/s | first run: into views, cases/s | the same, of decoding |"
          f" later: shuffled views/s |\n|{'---|' * 5}")  # fmt: skip
    for pack, ending in (("CXRLung", ".png"), ("Hippocampus3D", ".nii.gz"), ("Hippocampus3D", ".b2nd")):
        print(f"| {pack}, {ending} | {' | '.join(loader_rates(pack, ending))} |", flush=True)


def loader_rates(pack, ending):
    pool = open_pool(str(pack_folder(pack) / "imagesTr"))
    for case in pool.cases:
        for file in case.files:
            file.read_bytes()  # so that no round waits for the disk
    decoded, first, later = np.array([loader_round(pool, ending) for _ in range(ROUNDS)]).T
    share = first / decoded
    cells = [f"{np.median(decoded):.0f}"]
    if ending == ".b2nd":  # nnU-Net's own compressed format, which pools are not read from
        cells += ["-", "-"]
    else:
        cells += [f"{np.median(first):.0f}", f"{np.median(share):.0%} [{share.min():.0%} to {share.max():.0%}]"]
    return [*cells, f"{np.median(later):.0f}"]


def read_all(read, cases):
    with read_ahead(read, cases) as futures:
        for case in futures:
            case.result()


def loader_round(pool, ending):
    """Cases a second of decoding and of the first run, and views a second of later ones."""
    read = partial(read_case, reader=pool.reader())
    with tempfile.TemporaryDirectory() as folder:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[variable] = folder
        if ending == ".b2nd":
            decoded = b2nd_rate(pool, read, Path(folder))
        else:
            decoded = rate(len(pool), lambda: read_all(read, pool.cases))
        start = time.perf_counter()
        views = prepare_views(pool)
        first = len(pool) / (time.perf_counter() - start)
        sampler, n = ViewSampler([views], seed=0), 4096
        return decoded, first, rate(n, lambda: [sampler.views(range(i, i + BATCH)) for i in range(0, n, BATCH)])


def rate(n, run):
    start = time.perf_counter()
    run()
    return n / (time.perf_counter() - start)


def b2nd_rate(pool, read, folder):
    """Cases a second from nnU-Net's own compressed format, whole cases one after the other."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    for case in pool.cases:
        image = read(case).astype(np.float32)  # as nnU-Net keeps it
        label = np.zeros((1, *image.shape[1:]), np.int8)
        nnUNetDatasetBlosc2.save_case(image, label, {}, str(folder / case.identifier))
    dataset = nnUNetDatasetBlosc2(str(folder), pool.identifiers)
    return rate(len(pool), lambda: [np.asarray(dataset.load_case(name)[0]) for name in pool.identifiers])


if __name__ == "__main__":
    main()
