"""The image: it is built of what it needs, and anybody may run it with a root that is read-only."""

import re
import shutil
import subprocess

import pytest
from making import CHECKOUT
from test_packaging import TOP

USER = "12345:12345"  # of no name in the image
PROGRAM = """
mkdir -p $nnUNet_raw $nnUNet_preprocessed $nnUNet_results &&
python -c 'from nnunetv2_xssr.demo.phantom import write_datasets as write
write("/data/nnUNet_raw", "Dataset001_Source", "Dataset002_Target", n_source=8, n_pool=20, n_test=0)' &&
nnUNetv2_xssr_link --check &&
nnUNetv2_xssr_select -d 2 -s 1 -b 10% --encoder intensity
"""


def test_image_is_built_of_all_folders_of_the_package():
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (CHECKOUT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    named = " ".join(copied).split()
    let_in = re.findall(r"^!(.+)$", (CHECKOUT / ".dockerignore").read_text(encoding="utf-8"), re.M)
    assert sorted(named) == sorted(let_in)
    assert set(named) >= {*TOP, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
    assert all((CHECKOUT / name).exists() for name in named)


def test_image_names_its_user_by_number():
    """Kubernetes' `runAsNonRoot` refuses a user whom it knows by name only."""
    (user,) = re.findall(r"^USER (\S+)$", (CHECKOUT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert int(user) > 0


@pytest.fixture(scope="module")
def image():
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "info"], capture_output=True, timeout=60).returncode:
        pytest.skip("no docker whose daemon answers: the image is neither built nor run")
    build = [docker, "build", "-q", "-t", "nnunetv2_xssr:test", str(CHECKOUT)]
    subprocess.run(build, check=True, timeout=1800)
    return [docker, "run", "--rm"], "nnunetv2_xssr:test"


def test_image_selects_for_any_user_with_a_root_that_is_read_only(image, tmp_path):
    run, name = image
    tmp_path.chmod(0o777)
    limits = ["--user", USER, "--read-only", "--tmpfs", "/tmp", "--network", "none", "-v", f"{tmp_path}:/data"]
    result = subprocess.run([*run, *limits, name, "sh", "-c", PROGRAM], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "nnUNet_preprocessed/Dataset002_Target/splits_xssr.json").is_file()


def test_image_keeps_the_torch_that_was_asked_for(image):
    run, name = image
    show = [name, "python", "-c", "from importlib.metadata import version as v; print(v('torch').split('+')[0])"]
    torch = subprocess.run([*run, *show], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    assert f"torch=={torch}" in (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").split()


def test_image_runs_as_nobody_special(image):
    run, name = image
    result = subprocess.run([*run, name, "id", "-u"], capture_output=True, text=True, check=True, timeout=60)
    assert int(result.stdout) != 0
