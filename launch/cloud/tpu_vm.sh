#!/usr/bin/env bash
# Runs a job on a Cloud TPU slice, or on several, through a queued resource.
#
#   launch/cloud/tpu_vm.sh --name echox --type v5litepod-16 --zone us-west4-a --project PROJECT --image IMAGE \
#     [--slices 2] [--spot] [--service-account EMAIL] [--fuse BUCKET] [--delete] [--dry-run] \
#     -- train s2t --config=configs/echox_8b.py --workdir=gs://BUCKET/work
#
# What follows `--` are the arguments of `python -m launch.job`: corpus, precompute, train STAGE, export, evaluate or pipeline.
# All hosts run it in a container of IMAGE (launch/cloud/Dockerfile), which outlives this connection: the same command shows a
# running job again. A slice that was taken away (--spot) is asked for anew, and the job goes on from what it saved. A job that
# fails by itself ends this command with its exit code. --delete gives the slice back at the end. --fuse mounts the bucket at
# /mnt/echox, for a working folder that is not gs://. --dry-run prints the commands and runs none. Needs: gcloud, logged in.
set -euo pipefail

name='' type='' zone='' project='' image='' account='' fuse='' slices=1 spot='' delete='' dry='' runtime='' job=()
usage() { sed -n '2,14s/^# \{0,1\}//p' "$0"; }
fail() { echo "error: $1" >&2; exit 2; }
while [[ $# -gt 0 ]]; do
  case "$1" in
    --name) name=$2; shift 2 ;;
    --type) type=$2; shift 2 ;;
    --zone) zone=$2; shift 2 ;;
    --project) project=$2; shift 2 ;;
    --image) image=$2; shift 2 ;;
    --service-account) account=$2; shift 2 ;;
    --fuse) fuse=$2; shift 2 ;;
    --slices) slices=$2; shift 2 ;;
    --runtime) runtime=$2; shift 2 ;;
    --spot) spot=1; shift ;;
    --delete) delete=1; shift ;;
    --dry-run) dry=1; shift ;;
    --) shift; job=("$@"); break ;;
    -h|--help) usage; exit 0 ;;
    *) fail "$1 is not an option: see $0 --help." ;;
  esac
done
for needed in name type zone project image; do
  [[ -n ${!needed} ]] || fail "--$needed is missing: see $0 --help."
done
[[ ${#job[@]} -gt 0 ]] || fail "the job is missing: write it after --, such as \`-- train s2t --config=FILE.py --workdir=gs://BUCKET/work\`."
[[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices is $slices: give the number of slices."
[[ -n $dry ]] || command -v gcloud >/dev/null || fail 'gcloud is not installed: install the Google Cloud CLI and log in.'
if [[ -z $runtime ]]; then
  case "$type" in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "no runtime version is known for $type: name one with --runtime." ;;
  esac
fi
pause=${ECHOX_PAUSE:-30}  # seconds between two looks at the queue
where=(--project "$project" --zone "$zone")
queue=(gcloud compute tpus queued-resources)
[[ $slices == 1 ]] || job+=("--slices=$slices")

run() { local line; printf -v line ' %q' "$@"; echo "+$line"; [[ -n $dry ]] || "$@"; }
state() { [[ -n $dry ]] || "${queue[@]}" describe "$name" "${where[@]}" '--format=value(state.state)' 2>/dev/null || true; }

# Waits until the slices are there, asks for them where nobody has, and again where they were taken away.
claim() {
  local now asked='' nodes=(--node-id "$name") more=()
  [[ $slices == 1 ]] || nodes=(--node-count "$slices" --node-prefix "$name")
  [[ -z $spot ]] || more+=(--spot)
  [[ -z $account ]] || more+=(--service-account "$account")
  while now=$(state); [[ $now != ACTIVE ]]; do
    case "$now" in
      '')
        [[ -z $asked ]] || [[ -n $dry ]] || fail "the queued resource $name is gone: somebody deleted it."
        run "${queue[@]}" create "$name" "${where[@]}" "${nodes[@]}" --accelerator-type "$type" --runtime-version "$runtime" "${more[@]}"
        asked=1 ;;
      SUSPENDED) release; continue ;;
      FAILED) fail "the queued resource $name has FAILED: see \`${queue[*]} describe $name ${where[*]}\`, delete it and start again." ;;
    esac
    [[ -z $dry ]] || return 0
    echo "$(date +%T) $name is ${now:-asked for} ..."
    sleep "$pause"
  done
}

release() { run "${queue[@]}" delete "$name" "${where[@]}" --force --quiet; }

# Runs on a host of a slice: starts the job in a container, or finds it running, and shows its output until it ends.
on_host() {
  local image=$1 container=$2 bucket=$3 code
  shift 3
  if [[ -n $bucket ]] && ! mountpoint -q /mnt/echox; then
    if ! command -v gcsfuse >/dev/null; then
      echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
      curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
      sudo apt-get update -qq && sudo apt-get install -y -qq gcsfuse
    fi
    sudo mkdir -p /mnt/echox
    sudo gcsfuse -o allow_other --implicit-dirs --rename-dir-limit 1000000 --metadata-cache-ttl-secs 0 \
      --metadata-cache-negative-ttl-secs 0 "$bucket" /mnt/echox
  fi
  local wanted="-m launch.job $*" now
  now=$(sudo docker inspect --format '{{.State.Running}} {{join .Args " "}}' "$container" 2>/dev/null || true)
  if [[ $now == true* && $now != "true $wanted" ]]; then
    echo "error: another job runs here (${now#true }): let it end, or stop it with \`sudo docker stop $container\` on every host." >&2
    return 2
  elif [[ $now != true* ]]; then
    sudo docker rm "$container" >/dev/null 2>&1 || true
    sudo gcloud auth configure-docker "${image%%/*}" --quiet
    sudo docker run --detach --pull always --name "$container" --privileged --network host --shm-size 16g --stop-timeout 300 \
      --volume /mnt/echox:/mnt/echox "$image" python -m launch.job "$@" >/dev/null || return
  fi
  sudo docker logs --follow "$container" &
  code=$(sudo docker wait "$container")
  wait
  return "$code"
}

# Starts the job on all hosts of all slices, which wait for one another; returns the exit code of one that failed, or 0.
run_job() {
  local command line pids=() pid slice node code=0 one
  printf -v command '%q ' on_host "$image" echox "$fuse" "${job[@]}"
  for ((slice = 0; slice < slices; slice++)); do
    node=$name; [[ $slices == 1 ]] || node=$name-$slice
    line=(gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command)
    printf '+ %s%q\n' "$(printf '%q ' "${line[@]}")" "${command% }"  # the function itself is not printed
    [[ -n $dry ]] || "${line[@]}" "$(declare -f on_host); $command" & pids+=($!)
  done
  for pid in "${pids[@]}"; do
    one=0; wait "$pid" || one=$?
    [[ $one == 0 ]] || code=$one
  done
  return "$code"
}

lost=0
while true; do
  claim
  code=0; run_job || code=$?
  [[ $code != 0 ]] || break
  now=$(state)
  if [[ $now != ACTIVE ]]; then
    lost=0; echo "$(date +%T) the slice was taken away (it is ${now:-gone}): asking for another ..."
  elif [[ $code == 143 ]]; then
    echo "$(date +%T) the job saved its state and stopped: it goes on in $pause s ..."; sleep "$pause"
  elif [[ $code == 255 && $((lost += 1)) -le 20 ]]; then
    echo "$(date +%T) the connection was lost: looking again in $pause s ..."; sleep "$pause"
  else
    echo "error: the job ended with exit code $code: its own message is above; the slice is kept, and costs money until it is deleted." >&2
    exit "$code"
  fi
done
[[ -z $delete ]] || release
