# docker build -t nnunetv2_xssr .                                                      for a CPU
# docker build -t nnunetv2_xssr:cuda --build-arg TORCH=https://pypi.org/simple .         for a GPU
#
# docker run --rm --user "$(id -u):$(id -g)" --read-only --tmpfs /tmp -v "$PWD:/data" nnunetv2_xssr \
#     nnUNetv2_xssr_select -d 2 -s 1 -b 5%
#
# /data holds nnUNet_raw, nnUNet_preprocessed and nnUNet_results. Nothing else is written, but to /tmp. Training by
# several processes needs more shared memory than Docker gives: --ipc=host.
ARG BASE=python:3.12-slim
FROM ${BASE} AS build
# torch brings the libraries of CUDA, so one base serves both.
ARG TORCH=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /source
COPY constraints.txt .
# torchvision, which nnU-Net brings, replaces a torch of another version: both come from one index.
RUN pip install --no-cache-dir -c constraints.txt --index-url ${TORCH} torch torchvision
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY nnunetv2_xssr nnunetv2_xssr
COPY pretrain pretrain
COPY selection selection
COPY trainers trainers
# The link is made here, because whoever runs the image cannot write into nnU-Net's folder.
RUN pip install --no-cache-dir -c constraints.txt . && nnUNetv2_xssr_link && nnUNetv2_xssr_link --check

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
# Any user may run it (--user), also one without a name, with a root that nobody can write to (--read-only): what is
# cached goes to /tmp. nnU-Net does not compile its network, which would take a C compiler and an executable /tmp.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp USER=xssr MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba nnUNet_compile=f \
    nnUNet_raw=/data/nnUNet_raw nnUNet_preprocessed=/data/nnUNet_preprocessed nnUNet_results=/data/nnUNet_results
RUN useradd --uid 1000 --no-create-home --home-dir /tmp xssr
# By its number: who runs the container can tell from it that this is not root.
USER 1000
WORKDIR /data
CMD ["nnUNetv2_xssr_select", "--help"]
