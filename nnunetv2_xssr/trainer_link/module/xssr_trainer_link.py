"""Lets nnU-Net find the trainers of nnunetv2_xssr: written by nnUNetv2_xssr_link, taken away by its --remove.

nnU-Net looks for a trainer by importing every module of its trainer folder and asking for the class by name. The
package is imported only when one of its own trainers is asked for, so that other trainers never pay for it.
"""


def __getattr__(name):
    if not name.startswith("XSSRTrainer"):
        raise AttributeError(name)
    try:
        from nnunetv2_xssr import trainers
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "nnunetv2_xssr":
            raise
        import sys

        sys.stderr.write(f"{name} needs nnunetv2_xssr, which is not installed here: install it, or delete {__file__}\n")
        raise SystemExit(2) from None
    return getattr(trainers, name)
