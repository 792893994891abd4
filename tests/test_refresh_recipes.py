"""The recipes: their commands are the command line's, and the tools they are for accept them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline import cli
from pipeline.refresh.__main__ import command, parse
from pipeline.refresh.metrics import METRICS
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.rounds import _SEVERITY
from pipeline.refresh.serve import parse as parse_serve
from pipeline.spec.errors import BadRequest
from pipeline.spec.schedule import parse_schedule

RECIPES = Path(__file__).resolve().parents[1] / "aoi" / "recipes"
ROOT = RECIPES.parents[1]


def unit(name: str) -> dict[str, str]:
    """Settings of a systemd unit; of a repeated one the last."""
    lines = (RECIPES / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] not in "#[")


def cron_line() -> list[str]:
    """Fields of the crontab's one line: five of time, user, command."""
    lines = [line for line in (RECIPES / "crontab").read_text().splitlines()
             if re.match(r"[\d*]", line)]
    assert len(lines) == 1
    return lines[0].split(maxsplit=6)


def manifests() -> dict[str, dict]:
    return {m["kind"]: m for m in yaml.safe_load_all((RECIPES / "cronjob.yaml").read_text())}


def container() -> dict:
    (found,) = manifests()["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"]
    return found


def instruction(name: str) -> list[str]:
    """The value of a Containerfile's instruction in JSON form."""
    found = re.search(rf"^{name} (\[.*\])$", (RECIPES / "Containerfile").read_text(), re.MULTILINE)
    assert found
    return json.loads(found[1])


def commands() -> dict[str, list[str]]:
    """Where a command stands -> its words."""
    readme = (RECIPES / "README.md").read_text()
    found = {f"README {k}": shlex.split(line, comments=True) for k, line in enumerate(
        re.findall(r"^python -m pipeline\.\S+ .*$|(?<=`)python -m pipeline[^`]*(?=`)", readme,
                   re.MULTILINE))}
    return found | {
        "crontab": shlex.split(cron_line()[6].partition("&&")[2].partition(">>")[0])[1:],
        "systemd": shlex.split(unit("wallmap-refresh.service")["ExecStart"]),
        "container": [*instruction("ENTRYPOINT"), *instruction("CMD")],
        "kubernetes": [*instruction("ENTRYPOINT"), *container()["args"]],
    }


@pytest.mark.parametrize("place", commands())
def test_every_command_is_understood(place: str) -> None:
    """The options are the real ones, and a schedule is named."""
    words = commands()[place]
    assert words[0].endswith("python")
    assert words[1] == "-m"
    if words[2] == "pipeline.map":
        assert "--scheduler" in words
        return
    known = {"pipeline.refresh": parse, "pipeline.refresh.serve": parse_serve}[words[2]]
    assert str(known(words[3:]).config).endswith("schedule.toml")
    with pytest.raises(BadRequest):
        known([*words[3:], "--no-such-option"])


def test_crontab_has_no_trap() -> None:
    """Five fields and a user; no bare percent sign, which cron takes for a line break."""
    *when, user, command = cron_line()
    assert len(when) == 5
    assert all(re.fullmatch(r"[\d*/,-]+", field) for field in when)
    assert user == "wallmap"
    assert "%" not in command
    assert (RECIPES / "crontab").read_text().endswith("\n")  # cron skips a last line without


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for name in ("wallmap-refresh.service", "wallmap-refresh.timer"):
        text = (RECIPES / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/wallmap/.venv/bin/python", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "wallmap" in line]
    assert (done.returncode, ours) == (0, [])
    service = unit("wallmap-refresh.service")
    assert set(service["RestartPreventExitStatus"].split()) == {"2", "4"}
    assert service["ReadWritePaths"].startswith(service["WorkingDirectory"])
    assert service["SuccessExitStatus"] == str(cli.INTERRUPTED)  # stopping it is no failure


def test_cron_mails_what_went_wrong_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json, which the crontab sends into a file, only trouble is on stderr."""
    config = tmp_path / "schedule.toml"
    config.write_text('root = "maps"\ncatalog = "nowhere/catalog.json"\n'
                      '[regions.west]\naoi = "3,50,3.1,50.1"\ntasks = ["cropland"]\n'
                      '[tasks.cropland]\nperiod = "2023-10"\n')
    words = ["--config", str(config), "--quiet", "--json"]
    assert command(words) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["exit_code"] == 2
    (line,) = said.err.splitlines()
    assert line.startswith("west/cropland")
    assert "no such catalogue" in line
    quiet = RefreshResult.from_json({**json.loads(said.out)["results"][0], "exit_code": 0,
                                     "status": "unchanged"})

    def nothing_to_do(*jobs: object, told: Callable[[RefreshResult], None], **more: object
                      ) -> list[RefreshResult]:
        told(quiet)
        return [quiet]

    monkeypatch.setattr("pipeline.refresh.__main__.run_round", nothing_to_do)
    assert command(words) == 0
    assert capsys.readouterr().err == ""


def test_matplotlib_may_write_where_the_recipes_send_it() -> None:
    """Else it says on stderr, every time, that it cannot, and looks for all fonts again."""
    cron = dict(line.split("=", 1) for line in (RECIPES / "crontab").read_text().splitlines()
                if re.match(r"[A-Z]+=", line))
    service = unit("wallmap-refresh.service")
    assert cron["MPLCONFIGDIR"].startswith(service["ReadWritePaths"] + "/")
    assert service["Environment"] == f"MPLCONFIGDIR=/var/cache/{service['CacheDirectory']}"
    text = (RECIPES / "Containerfile").read_text()
    place = re.search(r"^ENV MPLCONFIGDIR=(\S+)$", text, re.MULTILINE)
    assert place
    assert Path(place[1]).parent == Path("/tmp")
    assert "/tmp" in {m["mountPath"] for m in container()["volumeMounts"]
                      if not m.get("readOnly")}  # the root file system is read-only


def test_the_container_gets_what_it_installs() -> None:
    text = (RECIPES / "Containerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE)
               for word in line.split()[:-1]]
    assert {"pyproject.toml", "constraints.txt", "pipeline", "models"} <= {*sources}
    for source in sources:
        assert (ROOT / source).exists(), source
    user = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert user
    assert user[-1] != "0"


def test_the_cron_job_retries_what_gets_better_and_its_schedule_is_valid() -> None:
    job = manifests()["CronJob"]["spec"]["jobTemplate"]["spec"]
    (codes,) = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert codes["action"] == "FailJob"
    assert codes["onExitCodes"]["values"] == [2, 4]
    assert codes["onExitCodes"]["containerName"] == container()["name"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # the policy wants it
    files = manifests()["ConfigMap"]["data"]
    made = parse_schedule(files["schedule.toml"], "schedule.toml")
    json.loads(files[made.regions["flanders"].aoi])
    mounts = {m["mountPath"] for m in container()["volumeMounts"]}
    assert any(made.work.startswith(mount) for mount in mounts)
    assert f"/config/{next(iter(files))}" in container()["args"]
    volumes = {v["name"] for v in job["template"]["spec"]["volumes"]}
    assert {m["name"] for m in container()["volumeMounts"]} == volumes


def test_restricted_namespaces_take_the_pod() -> None:
    """What Kubernetes' Pod Security Standard "restricted" asks for."""
    job = manifests()["CronJob"]["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] != 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    mine = container()["securityContext"]
    assert mine["allowPrivilegeEscalation"] is False
    assert mine["capabilities"] == {"drop": ["ALL"]}
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    for volume in job["template"]["spec"]["volumes"]:
        assert set(volume) - {"name"} <= allowed


def test_kubernetes_accepts_the_manifests() -> None:
    validator = pytest.importorskip("kubernetes_validate",
                                    reason="kubernetes-validate is not installed")
    for manifest in manifests().values():
        for version in ("1.29", "1.31", "1.33"):
            validator.validate(manifest, version, strict=True)


def test_the_readme_names_real_metrics_and_files() -> None:
    text = (RECIPES / "README.md").read_text()
    named = set(re.findall(r"\bwallmap_\w+", text))
    assert named
    assert named <= set(METRICS)
    for name in re.findall(r"\]\(([^)h][^)]*)\)", text):
        assert (RECIPES / name).is_file()


def test_the_readme_has_every_exit_code_and_installs_this_checkout() -> None:
    text = (RECIPES / "README.md").read_text()
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert told == {*_SEVERITY, cli.INTERRUPTED}
    installed = re.findall(r"pip install (?:-e )?'([^']*)'", text)
    assert len(installed) == 2
    assert all(name.startswith(".[") for name in installed)  # in no registry
