"""`start-daily.sh` and the crontab line of the guide, with a kubectl and a raymtl that only play their parts."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.command_lines import ROOT

SCRIPT = ROOT / "cluster" / "start-daily.sh"
KUBECTL = r"""#!/bin/sh
# The API server: a folder for each RayJob, a file for each field; `outcomes` says how the next ones will end.
case "$1" in
get)
    [ "$2" = rayjob ] || exit 9
    [ -d "$API/$3" ] || exit 0
    field=$(echo "$6" | sed 's/.*\.\(.*\)}/\1/')
    cat "$API/$3/$field" 2>/dev/null
    # a running job has ended at the next query
    if [ "$field" = jobDeploymentStatus ] && [ -d "$API/$3/then" ]; then
        mv "$API/$3/then"/* "$API/$3" && rmdir "$API/$3/then"
    fi
    exit 0
    ;;
create)
    cat > "$API/manifest"
    name=$(sed -n 's/^  name: //p' "$API/manifest")
    outcome=$(head -n 1 "$API/outcomes")
    sed -i 1d "$API/outcomes"
    [ "$outcome" != forbidden ] || { echo forbidden >&2; exit 1; }
    mkdir -p "$API/$name/then"
    mv "$API/manifest" "$API/$name/manifest"
    echo "$name" >> "$API/created"
    echo 1 > "$API/$name/uid"
    printf Running > "$API/$name/jobDeploymentStatus"
    cd "$API/$name/then"
    case $outcome in
    0) printf Complete > jobDeploymentStatus; printf SUCCEEDED > jobStatus ;;
    stopped) printf Complete > jobDeploymentStatus; printf STOPPED > jobStatus ;;
    lost) printf Failed > jobDeploymentStatus; printf RUNNING > jobStatus; printf DeadlineExceeded > reason ;;
    *)
        printf Failed > jobDeploymentStatus
        printf FAILED > jobStatus
        {
            echo "Job entrypoint command failed with exit code $outcome, last available logs (truncated to 20,000 chars):"
            echo "Job entrypoint command failed with exit code 64, says the log"
        } > message
        ;;
    esac
    ;;
esac
"""


class Night:
    """One API server; `run` is one pod of the CronJob."""

    def __init__(self, folder: Path):
        self.api = folder / "api"
        self.bin = folder / "bin"
        for path in (self.api, self.bin):
            path.mkdir()
        (self.bin / "kubectl").write_text(KUBECTL)
        (self.bin / "kubectl").chmod(0o755)

    def run(self, *outcomes: str, **variables: str) -> int:
        (self.api / "outcomes").write_text("".join(f"{one}\n" for one in outcomes))
        own = {"PATH": f"{self.bin}:{os.environ['PATH']}", "API": str(self.api), "DAY": "2026-02-01"}
        quick = {"TEMPLATE": str(SCRIPT.with_name("rayjob-daily.yaml")), "POLL_SECONDS": "0", "RETRY_SECONDS": "0"}
        done = subprocess.run(
            ["sh", str(SCRIPT)], env=own | quick | variables, capture_output=True, text=True, timeout=60, check=False
        )
        self.log = done.stdout + done.stderr
        assert "not found" not in self.log
        return done.returncode

    @property
    def created(self) -> list[str]:
        names = self.api / "created"
        return [name.removeprefix("raymtl-daily-") for name in names.read_text().split()] if names.exists() else []

    def manifest(self, name: str) -> dict:
        return yaml.safe_load((self.api / f"raymtl-daily-{name}" / "manifest").read_text())


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def test_a_good_night(night: Night) -> None:
    assert night.run("0", JOB_NAME="raymtl-daily-29", JOB_UID="ab-12") == 0
    made = night.manifest("2026-02-01")
    assert made["metadata"] == {
        "name": "raymtl-daily-2026-02-01",
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "raymtl-daily-29", "uid": "ab-12"}],
        "labels": {"kueue.x-k8s.io/queue-name": "raymtl", "kueue.x-k8s.io/priority-class": "raymtl-daily"},
    }
    assert "--date 2026-02-01 " in made["spec"]["entrypoint"]
    template = yaml.safe_load(SCRIPT.with_name("rayjob-daily.yaml").read_text())
    assert made["spec"] | {"entrypoint": ""} == template["spec"] | {"entrypoint": ""}


def test_yesterday_is_the_day_that_is_not_named(night: Night) -> None:
    assert night.run("0", DAY="") == 0
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", night.created[0])
    assert night.created[0] != "2026-02-01"


@pytest.mark.parametrize("code", [2, 64, 65, 66, 70, 71, 130])
def test_what_another_try_would_not_change_ends_at_once(night: Night, code: int) -> None:
    assert night.run(str(code), "0") == code
    assert night.created == ["2026-02-01"]


def test_a_stopped_job(night: Night) -> None:
    assert night.run("stopped", "0") == 130


def test_late_logs_are_waited_for(night: Night) -> None:
    assert night.run("75", "75", "75", "75", "0") == 0
    assert night.created == ["2026-02-01", *(f"2026-02-01-a{n}" for n in (2, 3, 4, 5))]
    assert {night.manifest(name)["spec"]["entrypoint"] for name in night.created} == {
        night.manifest("2026-02-01")["spec"]["entrypoint"]
    }


def test_logs_that_never_come(night: Night) -> None:
    assert night.run("75", "0", RETRY_SECONDS="1800", GIVE_UP_SECONDS="60") == 75
    assert night.created == ["2026-02-01"]


@pytest.mark.parametrize(("outcome", "code"), [("69", 69), ("74", 74), ("1", 1), ("-9", 1), ("lost", 1)])
def test_bad_luck_gets_three_tries(night: Night, outcome: str, code: int) -> None:
    assert night.run(outcome, "75", outcome, outcome, "0") == code
    assert len(night.created) == 4


def test_bad_luck_and_then_good(night: Night) -> None:
    assert night.run("lost", "69", "0") == 0


def test_not_allowed_to_create(night: Night) -> None:
    assert night.run("forbidden", "forbidden", "forbidden", "0") == 1
    assert night.created == []


def test_a_pod_in_place_of_a_lost_one_waits_for_what_it_finds(night: Night) -> None:
    night.run("0")
    job = night.api / "raymtl-daily-2026-02-01"
    (job / "then").mkdir()
    (job / "jobDeploymentStatus").rename(job / "then" / "jobDeploymentStatus")
    (job / "jobDeploymentStatus").write_text("Running")
    assert night.run("70") == 0
    assert "already running" in night.log
    assert night.created == ["2026-02-01"]


def test_a_second_start_does_nothing_after_success_and_tries_again_after_failure(night: Night) -> None:
    assert night.run("65") == 65
    assert night.run("0") == 0
    assert night.run("70") == 0
    assert night.created == ["2026-02-01", "2026-02-01-a2"]


@pytest.mark.parametrize(
    ("codes", "calls", "printed"),
    [
        ([0], 1, ""),
        ([75, 75, 0], 3, ""),
        ([70, 0], 1, "raymtl daily: exit code 70\nthe reason\n"),
        ([75] * 9, 8, "raymtl daily: exit code 75\n" + "the reason\n" * 8),
    ],
)
def test_the_crontab_line_mails_failures_alone(tmp_path: Path, codes: list[int], calls: int, printed: str) -> None:
    (line,) = re.findall(r"^30 2 \* \* \* (.*)$", (ROOT / "docs" / "daily.md").read_text(), re.M)
    assert "%" not in line  # cron makes a line break of it
    raymtl = tmp_path / "raymtl" / ".venv" / "bin" / "raymtl"
    raymtl.parent.mkdir(parents=True)
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    raymtl.write_text(
        "#!/bin/sh\ncode=$(head -n 1 ../codes)\nsed -i 1d ../codes\n[ $code = 0 ] || echo the reason\nexit $code\n"
    )
    sleep = tmp_path / "bin" / "sleep"
    sleep.parent.mkdir()
    sleep.write_text("#!/bin/sh\n")
    for path in (raymtl, sleep):
        path.chmod(0o755)
    environment = {"PATH": f"{sleep.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (printed, "")
    assert len((tmp_path / "codes").read_text().split()) == len(codes) - calls
