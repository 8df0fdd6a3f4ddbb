#!/bin/sh
# Creates the RayJob of one day, waits for its end and exits with the exit code of `raymtl daily`, which a RayJob has only
# in its message. Runs in the pod of cronjob-daily.yaml; needs only kubectl, a POSIX shell, date and sed.
set -u

TEMPLATE=${TEMPLATE:-/etc/raymtl-daily/rayjob-daily.yaml}
DAY=${DAY:-$(date -u -d "@$(($(date +%s) - 86400))" +%F)}
POLL_SECONDS=${POLL_SECONDS:-15}
RETRY_SECONDS=${RETRY_SECONDS:-1800}     # between two attempts; each one starts a cluster
GIVE_UP_SECONDS=${GIVE_UP_SECONDS:-28800}
TRIES=${TRIES:-3}                        # of a job that was lost or ended by a signal, or found a full cluster or broken storage

say() { echo "$(date -u +%H:%M:%S) $*"; }

# Retries for five minutes if the API server does not answer.
field() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        kubectl get rayjob "$1" --ignore-not-found -o "jsonpath={$2}" && return
        sleep "$POLL_SECONDS"
    done
    exit 1
}

create() {
    # Owned by the Job of this night, so that it is deleted with it
    owner=
    [ -z "${JOB_UID:-}" ] || owner="\\n  ownerReferences: [{apiVersion: batch/v1, kind: Job, name: $JOB_NAME, uid: $JOB_UID}]"
    sed -e "s|^  name: raymtl-daily-.*|  name: $1$owner|" -e "s|--date [0-9-]*|--date $DAY|" "$TEMPLATE" | kubectl create -f -
}

# The exit code of a finished RayJob: only the first line of the message is Ray's, the others are the job's own output.
code_of() {
    case $(field "$1" .status.jobStatus) in
        SUCCEEDED) echo 0 ;;
        STOPPED) echo 130 ;;
        *) field "$1" .status.message | sed -n '1s/^Job entrypoint command failed with exit code \([0-9]*\)[,.].*/\1/p' ;;
    esac
}

started=$(date +%s)
attempt=1
lost=0
while :; do
    name=raymtl-daily-$DAY
    [ "$attempt" -eq 1 ] || name=$name-a$attempt
    attempt=$((attempt + 1))

    uid=$(field "$name" .metadata.uid) || exit 1
    state=$(field "$name" .status.jobDeploymentStatus) || exit 1
    case $state in
        Complete | Failed | ValidationFailed)  # by an earlier pod or by hand; only a success counts
            if [ "$(code_of "$name")" = 0 ]; then
                say "$name has already succeeded"
                exit 0
            fi
            continue
            ;;
    esac
    if [ -n "$uid" ]; then
        say "$name is already running"
    elif ! create "$name"; then
        lost=$((lost + 1))
        [ "$lost" -lt "$TRIES" ] || exit 1
        attempt=$((attempt - 1))
        sleep "$POLL_SECONDS"
        continue
    fi

    while :; do
        state=$(field "$name" .status.jobDeploymentStatus) || exit 1
        case $state in Complete | Failed | ValidationFailed) break ;; esac
        sleep "$POLL_SECONDS"
    done
    code=$(code_of "$name")
    field "$name" .status.message | tail -n 20
    say "$name: exit code ${code:-unknown} ($state $(field "$name" .status.reason))"

    case ${code:-lost} in
        75) ;;
        lost | 1 | 69 | 74 | 129 | 137 | 143)
            lost=$((lost + 1))
            [ "$lost" -lt "$TRIES" ] || exit "${code:-1}"
            ;;
        *) exit "$code" ;;
    esac
    if [ $(($(date +%s) - started + RETRY_SECONDS)) -gt "$GIVE_UP_SECONDS" ]; then
        exit "${code:-1}"
    fi
    say "retrying in $RETRY_SECONDS s"
    sleep "$RETRY_SECONDS"
done
