"""The files for clusters: they parse, what they mount is there, and the commands in them are ones that emscope takes."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from emscope.commands.catalogue import command_class
from emscope.commands.parsing import parse

FOLDER = Path(__file__).parent.parent / "docs" / "cluster"


def parsed(words):
    """Parse a command line of emscope, without running it."""
    return parse(command_class(words[0]), words[0], words[1:])


def test_the_job_for_kubernetes_mounts_what_it_declares_and_gives_a_command_of_emscope():
    claim, job = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]

    words = job["spec"]["entrypoint"].split()
    assert words[0] == "emscope"
    command = parsed(words[1:])
    assert command.execution.executor == "ray"

    spec = job["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        assert volumes[mount["name"]]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert str(command.out).startswith(mount["mountPath"])
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    params = [group["rayStartParams"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    assert all(isinstance(value, str) for one in params for value in one.values())  # numbers are refused there


@pytest.mark.parametrize("name", ["two-machines.sh", "slurm-here.sh", "slurm.sbatch"])
def test_scripts_are_ones_that_bash_reads(name):
    assert subprocess.run(["bash", "-n", str(FOLDER / name)], check=False).returncode == 0


def test_the_commands_on_the_page_are_ones_that_emscope_takes():
    page = (FOLDER.parent / "cluster.md").read_text(encoding="utf-8")
    found = re.findall(r"^    (?:LOSE=\d+ )?(?:docs/\S+ \S+ )?emscope (.+?)(?: +#.*)?$", page, re.MULTILINE)
    assert len(found) >= 5
    for line in found:
        assert parsed(line.split()).execution is not None
